"""`cops gc`: what nothing refers to goes, the rest stays; in a folder and in S3."""

from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from pyarrow import fs

from cops import Mask
from jobs.identity import key, mask_settings, score_settings
from jobs.local import mlflow_server
from jobs.plan import Trial, cells, scores_needed
from jobs.scorestore import ScoreStore
from jobs.settings import Settings
from jobs.spec import Spec
from jobs.tracking import Tracker
from jobs.trial import Result
from service.gc import collect
from service.stack.settings import BUCKET
from tests.conftest import new_home

SPEC = Spec.model_validate(
    {
        "name": "kept",
        "experiment": "gc",
        "workloads": [{"model": "convnet", "data": "digits"}],
        "grid": {"pairs": [{"target": "snip", "controls": ["grasp"]}], "sparsities": [0.9]},
        "baselines": [],
    }
)
OLD = "0123456789abcdef" * 2  # a run that MLflow never knew, a score of no sweep, a trial that is long over


@pytest.fixture(params=["folder", "s3"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    if request.param == "s3":
        request.getfixturevalue("stack")
        store = f"s3://{BUCKET}/scores-{tmp_path.name}"  # the sweeps of other tests have theirs
        return Settings.read().model_copy(update={"home": tmp_path, "store": store})
    home = new_home(tmp_path / "home")
    return Settings(home=home.path, mlflow_port=home.mlflow_port, api_port=home.api_port, MLFLOW_TRACKING_URI=None)


class Left:
    """What a sweep left: two masks, one of whose runs has been deleted since, and files that nothing refers to."""

    def __init__(self, uri: str, settings: Settings) -> None:
        tracker, self.client = Tracker(uri), MlflowClient(uri)
        self.session = tracker.start_sweep(SPEC)
        cell = cells(SPEC)[0]
        kept = {"weight": torch.rand(100) > 0.9}
        runs = []
        for alpha in (0.1, 0.2, 0.3, 0.4):
            trial = Trial(cell, (1.0,), (alpha,))
            run = tracker.start_trial(SPEC, self.session, trial)
            metrics = {"validation_accuracy": 0.5, "sparsity": 0.9}
            result = Result(metrics, {}, {}, Mask(kept, mask_settings(SPEC, trial)))
            tracker.finish_trial(SPEC, self.session, trial, run, result, [])
            runs.append(run)
        tracker.end_sweep(self.session, "FINISHED")
        self.mine, self.deleted, failed, trained = runs
        self.name = f"gc-{settings.home.parent.name}"
        self.client.create_registered_model(self.name)
        self.client.create_model_version(self.name, f"{trained.artifacts}/model", trained.id)
        for run in (self.deleted, trained):
            self.client.delete_run(run.id)
        self.client.update_run(failed.id, "FAILED")
        self.files, root = fs.FileSystem.from_uri(self.mine.artifacts)
        experiment = root.rpartition(f"/{self.mine.id}/")[0]
        mine, orphan = f"{experiment}/{self.mine.id}/artifacts", f"{experiment}/{OLD}/artifacts"
        store = ScoreStore(settings.store_url)
        self.scores = [key("score", score_settings(SPEC, task)) for task in scores_needed(SPEC)]
        for name in [*self.scores, OLD]:
            store.put(name, {"weight": torch.ones(3)})
        _, self.store = fs.FileSystem.from_uri(settings.store_url)
        stays = [f"{mine}/mask.cops", f"{mine}/notes.txt", f"{orphan}/notes.txt", f"{experiment}/readme/mask.cops"]
        champion = root.replace(self.mine.id, trained.id)
        stays += [f"{champion}/mask.cops", f"{champion}/model/MLmodel"]
        stays += [f"{self.store}/{name}.scores" for name in self.scores] + [f"{self.store}/notes.scores"]
        goes = [f"{root.replace(self.mine.id, run)}/mask.cops" for run in (self.deleted.id, failed.id)]
        goes += [f"{orphan}/mask.cops", f"{mine}/.mask.cops.{'0' * 16}.part", f"{self.store}/{OLD}.scores"]
        goes += [f"{self.store}/checkpoints/{OLD}.pt", f"{self.store}/{OLD}-{'0' * 16}.scores"]
        for path in (*stays, *goes):
            if self.files.get_file_info(path).type == fs.FileType.NotFound:
                self.files.create_dir(path.rpartition("/")[0], recursive=True)
                with self.files.open_output_stream(path) as file:
                    file.write(b"x")
        self.trained = trained.id
        self.stays, self.goes = set(stays), set(goes)

    def there(self) -> set[str]:
        every = self.stays | self.goes
        return {path for path in every if self.files.get_file_info(path).type == fs.FileType.File}


def test_what_nothing_refers_to_goes(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    with mlflow_server(settings) as uri:
        left = Left(uri, settings)
        every = left.stays | left.goes
        assert left.there() == every
        for hours, delete in ((0, False), (1, True)):  # a dry run, and nothing is old enough
            collect(settings, hours, delete=delete)
            assert left.there() == every
        assert "nothing to remove" in capsys.readouterr().out
        tracker = Tracker(uri)
        session = tracker.start_sweep(SPEC)
        collect(settings, 0, delete=True)
        assert left.there() == every
        assert "sweep 'kept' runs" in capsys.readouterr().out
        tracker.end_sweep(session, "FINISHED")

        files, root = fs.FileSystem.from_uri(left.client.get_run(session.run).info.artifact_uri)
        with files.open_input_stream(f"{root}/sweep.yaml") as file:
            sweep = file.read()
        with files.open_output_stream(f"{root}/sweep.yaml") as file:
            file.write(b"name: [")
        collect(settings, 0, delete=False)
        shown = capsys.readouterr().out
        assert "all score vectors are kept: the file of sweep 'kept'" in shown
        with files.open_output_stream(f"{root}/sweep.yaml") as file:
            file.write(sweep)

        collect(settings, 0, delete=True)
        assert left.there() == left.stays
        shown = capsys.readouterr().out
        assert "score vectors of no sweep" in shown
        assert f"run '{left.trained}' are kept: version 1 of the registered model '{left.name}' needs them" in shown
        collect(settings, 0, delete=True)
        assert "nothing to remove" in capsys.readouterr().out
