"""The catalog agrees with MLflow, whatever happens to runs, to its file, and to whoever reads MLflow at the same time.

MLflow is real, its first runs are those of a real sweep, and the others are copies of them under other names.
"""

import json
import logging
import secrets
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag

from jobs.errors import UserError
from jobs.local import mlflow_server
from jobs.settings import Settings
from jobs.tracking import Runs, TrackingError
from service.catalog import Catalog, Wanted
from service.catalogfile import DamagedError
from service.masks import summarise
from service.sync import audit, deletions, differences, news, rebuild
from service.syncing import LATE_OVERLAP_MS, Syncing
from tests.conftest import ROOT, Home, Swept, free_port, new_home, run_command

PLACE = Wanted("convnet", "digits", 0.9)


@dataclass(frozen=True)
class Server:
    """An MLflow server, and the search run and the confirmation of one mask of a real sweep."""

    home: Home
    uri: str
    pattern: tuple[Run, Run]

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.uri)

    @property
    def runs(self) -> Runs:
        return Runs(self.uri)

    def add(
        self, accuracy: float, ended: int | None = None, experiment: str | None = None, **params: str
    ) -> tuple[str, list[str]]:
        """A mask like the pattern, but for its name, its accuracy and some params: its id, and its runs."""
        mask, made = secrets.token_hex(16), []
        for run in self.pattern:
            new = self.client.create_run(experiment or run.info.experiment_id).info.run_id
            tags = run.data.tags | {"cops.mask": mask, "cops.trial": secrets.token_hex(16)}
            metrics = run.data.metrics | {"validation_accuracy": accuracy}
            self.client.log_batch(
                new,
                [Metric(name, value, 0, 0) for name, value in metrics.items()],
                [Param(*item) for item in (run.data.params | params).items()],
                [RunTag(*item) for item in tags.items()],
            )
            self.client.set_terminated(new, "FINISHED", ended)
            made.append(new)
        return mask, made

    def masks(self) -> set[str]:
        return {mask.id for mask in summarise(record for page in self.runs.records() for record in page)}


@pytest.fixture(scope="module")
def server(swept: Swept, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = new_home(tmp_path_factory.mktemp("catalog") / "home")
    home.path.mkdir()
    with (
        closing(sqlite3.connect(swept.home.path / "mlflow.db")) as source,
        closing(sqlite3.connect(home.path / "mlflow.db")) as copy,
    ):
        source.backup(copy)
    with mlflow_server(Settings(home=home.path, mlflow_port=home.mlflow_port, api_port=home.api_port)) as uri:
        client = MlflowClient(uri)
        (experiment,) = [one for one in client.search_experiments() if one.name == "cops"]
        runs = client.search_runs([experiment.experiment_id], "tags.`cops.mask` != ''")
        confirmed = next(run for run in runs if run.data.tags["cops.kind"] == "confirmation")
        mask = confirmed.data.tags["cops.mask"]
        searched = next(run for run in runs if run.data.tags["cops.mask"] == mask and run != confirmed)
        yield Server(home, uri, (searched, confirmed))


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog(tmp_path / "catalog.db") as catalog:
        yield catalog


def masks_of(catalog: Catalog) -> set[str]:
    return {mask.id for mask in catalog.page(Wanted(), limit=1000)[0]}


def test_it_has_what_the_sweep_left(server: Server, catalog: Catalog) -> None:
    assert catalog.synced is None
    news(catalog, server.runs)
    assert catalog.synced is not None
    assert not differences(catalog, server.runs)
    searched, confirmed = server.pattern
    mask = catalog.get(searched.data.tags["cops.mask"])
    assert mask is not None
    assert (mask.confirmations, mask.file_run) == (1, searched.info.run_id)
    assert mask.validation_accuracy == confirmed.data.metrics["validation_accuracy"]
    assert mask.test_accuracy == confirmed.data.metrics["test_accuracy"]
    for name in ("flops_share", "dead_share", "emptied_layers", "gradient_norm_ratio"):
        assert getattr(mask, name) == searched.data.metrics[name]
    assert (mask.layout, mask.rounds, mask.data) == ("unstructured", 1, "digits")
    assert catalog.names().methods == ["magnitude", "snip|grasp"]


def test_news_comes_in_as_runs_end(server: Server, catalog: Catalog) -> None:
    """What ended while nobody read, and what a slow clock or network told late."""
    news(catalog, server.runs)
    now = int(time.time() * 1000)
    first, _ = server.add(0.99, now)
    news(catalog, server.runs)
    best = catalog.best(PLACE)
    assert best is not None
    assert (best.id, best.validation_accuracy) == (first, 0.99)
    slow, _ = server.add(0.5, now - 10_000)
    late, _ = server.add(0.5, now - 300_000)
    news(catalog, server.runs)
    assert slow in masks_of(catalog)
    assert late not in masks_of(catalog)
    news(catalog, server.runs, LATE_OVERLAP_MS)
    assert not differences(catalog, server.runs)


def test_a_clock_that_runs_ahead_hides_nobody(server: Server, catalog: Catalog) -> None:
    news(catalog, server.runs)
    ahead, ended = server.add(0.5, int(time.time() * 1000) + 3_600_000)
    news(catalog, server.runs)
    mask, _ = server.add(0.5)
    news(catalog, server.runs)
    assert {ahead, mask} <= masks_of(catalog)
    for run in ended:  # else it would be news to all tests after this one
        server.client.delete_run(run)


def test_what_is_deleted_goes_and_what_is_restored_comes_back(server: Server, catalog: Catalog) -> None:
    mask, (searched, confirmed) = server.add(0.5, 1000)
    news(catalog, server.runs)
    server.client.delete_run(confirmed)
    deletions(catalog, server.runs)
    found = catalog.get(mask)
    assert found is not None
    assert (found.confirmations, found.test_accuracy) == (0, None)
    server.client.delete_run(searched)
    deletions(catalog, server.runs)
    assert catalog.get(mask) is None
    assert not differences(catalog, server.runs)
    for run in (searched, confirmed):
        server.client.restore_run(run)
    deletions(catalog, server.runs)
    found = catalog.get(mask)
    assert found is not None
    assert found.confirmations == 1
    assert not differences(catalog, server.runs)


def test_a_run_deleted_before_it_was_read_comes_back_too(server: Server, catalog: Catalog) -> None:
    mask, made = server.add(0.5, 1000)
    for run in made:
        server.client.delete_run(run)
    news(catalog, server.runs)
    assert catalog.get(mask) is None
    for run in made:
        server.client.restore_run(run)
    deletions(catalog, server.runs)
    assert catalog.get(mask) is not None


def test_a_deleted_experiment_takes_its_masks_with_it(server: Server, catalog: Catalog) -> None:
    experiment = server.client.create_experiment("other")
    mask, _ = server.add(0.5, experiment=experiment)
    news(catalog, server.runs)
    assert mask in masks_of(catalog)
    server.client.delete_experiment(experiment)
    deletions(catalog, server.runs)
    assert mask not in masks_of(catalog)
    assert not differences(catalog, server.runs)
    server.client.restore_experiment(experiment)
    deletions(catalog, server.runs)
    assert mask in masks_of(catalog)
    assert not differences(catalog, server.runs)


def test_runs_that_are_gone_for_good_are_missed_by_an_audit(server: Server, catalog: Catalog) -> None:
    """`mlflow gc` removed them while nobody kept the catalog; somebody else edited a tag."""
    gone, made = server.add(0.5)
    edited, (searched, confirmed) = server.add(0.5)
    news(catalog, server.runs)
    for run in made:
        server.client.delete_run(run)
    database = f"sqlite:///{server.home.path / 'mlflow.db'}"
    collect = [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", database, "--run-ids", ",".join(made)]
    env = server.home.environment | {"MLFLOW_TRACKING_URI": server.uri}
    done = subprocess.run(collect, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not server.runs.deleted().intersection(made)
    name = "f" * 32
    for run in (searched, confirmed):
        server.client.set_tag(run, "cops.mask", name)
    news(catalog, server.runs)
    deletions(catalog, server.runs)
    assert differences(catalog, server.runs)
    for _ in audit(catalog, server.runs):
        pass
    assert not differences(catalog, server.runs)
    assert masks_of(catalog).isdisjoint({gone, edited})
    assert name in masks_of(catalog)


def test_pages_of_runs_leave_none_out(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """More runs than a page holds, ended in the same millisecond or not; a page goes on by time, or else by number."""
    together = int(time.time() * 1000) - 50_000
    made = {run for _ in range(3) for run in server.add(0.5, together)[1]} | set(server.add(0.5, together + 1)[1])
    before = {record.run for page in server.runs.records() for record in page}
    monkeypatch.setattr("jobs.tracking.runs.PAGE", 3)
    assert made <= {record.run for page in server.runs.ended(together) for record in page}
    assert {record.run for page in server.runs.records() for record in page} == before


def test_a_mask_of_few_samples_stands_beside_no_other(server: Server, catalog: Catalog) -> None:
    """A smoke sweep is confirmed, too, and accurate on the few images that it sees."""
    mask, made = server.add(1.0, samples="32")
    news(catalog, server.runs)
    assert not differences(catalog, server.runs)
    found = catalog.get(mask)
    assert found is not None
    assert (found.samples, found.confirmations) == (32, 1)
    assert catalog.best(replace(PLACE, samples=32)) == found
    assert catalog.frontier(replace(PLACE, samples=32)) == [found]
    assert catalog.page(Wanted(samples=32)) == ([found], None)
    best = catalog.best(PLACE)
    assert best is not None
    assert best.samples is None
    assert mask not in masks_of(catalog) | {one.id for one in catalog.frontier(PLACE)}
    for run in made:
        server.client.delete_run(run)


def test_a_foreign_run_with_our_tag_is_no_mask(server: Server, catalog: Catalog) -> None:
    run = server.client.create_run(server.pattern[0].info.experiment_id, tags={"cops.mask": "f" * 32}).info.run_id
    server.client.set_terminated(run)
    news(catalog, server.runs)
    assert not differences(catalog, server.runs)
    server.client.delete_run(run)


def test_the_commands_find_what_is_wrong_and_put_it_right(server: Server, tmp_path: Path) -> None:
    path = str(tmp_path / "here" / "masks.db")

    def cops(command: str) -> subprocess.CompletedProcess[str]:
        where = {"MLFLOW_TRACKING_URI": server.uri, "COPS_CATALOG": path}
        return run_command(server.home, "-m", "service.cli", "catalog", command, timeout=240, **where)

    done = cops("check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"agree on {len(server.masks())} masks" in done.stdout
    with closing(sqlite3.connect(path)) as file, file:
        (one, other, third) = [id_ for (id_,) in file.execute("SELECT id FROM masks LIMIT 3")]
        file.execute("DELETE FROM masks WHERE id = ?", (one,))
        text = json.loads(file.execute("SELECT json FROM masks WHERE id = ?", (other,)).fetchone()[0])
        wrong = json.dumps(text | {"validation_accuracy": 7.0}).encode()
        file.execute("UPDATE masks SET json = ? WHERE id = ?", (wrong, other))
        file.execute("UPDATE masks SET json = replace(json, id, ?) WHERE id = ?", ("0" * 32, third))
    done = cops("check")
    assert done.returncode == 1
    assert re_lines(done.stdout) == 5
    assert f"mask {one}, recipe" in done.stdout
    assert "validation_accuracy is 7.0, in MLflow" in done.stdout
    assert "in the catalog alone" in done.stdout
    done = cops("rebuild")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(server.masks())} masks from" in done.stdout
    assert cops("check").returncode == 0
    left = {path.name for path in (tmp_path / "here").iterdir()}
    assert left <= {f"masks.db{suffix}" for suffix in ("", "-wal", "-shm", ".lock", ".renew")}


def re_lines(text: str) -> int:
    """Lines that are not empty."""
    return sum(bool(line.strip()) for line in text.splitlines())


def test_no_mlflow_is_one_line(tmp_path: Path) -> None:
    home = new_home(tmp_path)
    for command in ("check", "rebuild"):
        uri = f"http://127.0.0.1:{free_port()}"
        done = run_command(home, "-m", "service.cli", "catalog", command, MLFLOW_TRACKING_URI=uri)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "MLFLOW_TRACKING_URI" in done.stderr


def _garbage(path: Path) -> None:
    path.write_bytes(b"no database at all\n" * 100)


def _middle(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 4 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 4)
    path.write_bytes(content)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _version(path: Path) -> None:
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA user_version = 99")


@pytest.mark.parametrize("damage", [_garbage, _middle, _cut, _version])
def test_a_file_that_cannot_be_used_is_made_anew(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: object
) -> None:
    path = tmp_path / "catalog.db"
    with Catalog(path) as catalog:
        news(catalog, server.runs)
    damage(path)  # type: ignore[operator]
    with caplog.at_level(logging.WARNING), Catalog(path) as catalog:
        assert catalog.synced is None
        news(catalog, server.runs)
        assert not differences(catalog, server.runs)
    assert caplog.text.count("made anew") == 1
    assert str(path) in caplog.text
    assert (tmp_path / "catalog.db.damaged").exists() == (damage is not _version)


def test_damage_while_it_is_used(server: Server, tmp_path: Path) -> None:
    """Its next question is told so, the one after that finds an empty catalog, and the thread fills it."""
    with Catalog(tmp_path / "catalog.db") as catalog, Syncing(catalog, server.runs) as syncing:
        assert catalog.best(PLACE) is not None
        with catalog.file.exclusive():
            catalog.file.close()  # what SQLite has in memory is still whole
            _garbage(tmp_path / "catalog.db")
            with pytest.raises(DamagedError, match="made anew"):
                catalog.best(PLACE)
            assert catalog.best(PLACE) is None
            assert catalog.synced is None
        assert syncing.fresh(60)
        assert catalog.best(PLACE) is not None
        (tmp_path / "catalog.db").unlink()
        assert catalog.best(PLACE) is None
        assert syncing.fresh(60)
        assert not differences(catalog, server.runs)


def test_another_programs_database_is_left_alone(tmp_path: Path, server: Server) -> None:
    path = tmp_path / "theirs.db"
    shutil.copy(server.home.path / "mlflow.db", path)
    before = path.read_bytes()
    with pytest.raises(UserError, match="another program's database: name another file"):
        Catalog(path)
    assert path.read_bytes() == before
    with pytest.raises(UserError, match=r"COPS_CATALOG = '/proc/here/catalog\.db' cannot be used"):
        Catalog(Path("/proc/here/catalog.db"))


def test_the_answer_is_there_when_a_sweep_has_ended(
    server: Server, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.syncing.NEWS_SECONDS", 3600.0)
    with Syncing(catalog, server.runs) as syncing:
        assert catalog.synced is not None
        for accuracy in (0.991, 0.992):
            mask, _ = server.add(accuracy)
            assert syncing.fresh(60)
            best = catalog.best(PLACE)
            assert best is not None
            assert best.id == mask


def test_without_mlflow_it_goes_on_answering(server: Server, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    news(catalog, server.runs)
    nowhere = Runs(f"http://127.0.0.1:{free_port()}")
    with Syncing(catalog, nowhere) as syncing:
        assert syncing.problem is not None
        assert not syncing.fresh()
        assert catalog.best(PLACE) is not None
    with pytest.raises(TrackingError):
        rebuild(catalog, nowhere)
    assert not differences(catalog, server.runs)


KEEP = """
import sys, time
from pathlib import Path
from jobs.tracking import Runs
from service.catalog import Catalog, Wanted
from service.sync import rebuild
from service.syncing import Syncing

uri, path, stop = sys.argv[1:]
runs = Runs(uri)
with Catalog(Path(path)) as catalog, Syncing(catalog, runs) as syncing:
    while not Path(stop).exists():
        rebuild(catalog, runs)
        best = catalog.best(Wanted("convnet", "digits", 0.9))
        assert best is not None and best.confirmations == 1
        print("made", flush=True)
    assert syncing.problem is None, syncing.problem
"""


def test_two_processes_keep_one_file(server: Server, tmp_path: Path) -> None:
    """Both read news, audit, and make it from nothing again and again, while runs end and are deleted."""
    path, stop = tmp_path / "catalog.db", tmp_path / "stop"
    command = [sys.executable, "-W", "error", "-c", KEEP, server.uri, str(path), str(stop)]
    keepers = [
        subprocess.Popen(
            command, cwd=ROOT, env=server.home.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    try:
        for keeper in keepers:
            assert keeper.stdout is not None
            assert keeper.stdout.readline() == "made\n"
        with Catalog(path) as catalog, Syncing(catalog, server.runs) as syncing:
            for turn in range(6):
                mask, made = server.add(0.5)
                assert syncing.fresh(60)
                assert catalog.get(mask) is not None
                if turn % 2:
                    server.client.delete_run(made[0])
                    assert syncing.fresh(60)
                    assert catalog.get(mask) is None
                assert [keeper.poll() for keeper in keepers] == [None, None]
    finally:
        stop.touch()
        told = [keeper.communicate(timeout=120) for keeper in keepers]
    for (_, errors), keeper in zip(told, keepers, strict=True):
        assert (keeper.returncode, errors) == (0, "")
    with Catalog(path) as catalog:
        assert not differences(catalog, server.runs)


def test_readers_see_all_or_nothing_while_it_is_made_anew(server: Server, catalog: Catalog) -> None:
    news(catalog, server.runs)
    whole, seen, stop = len(server.masks()), set(), threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.add(catalog.count())

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for _ in range(5):
        rebuild(catalog, server.runs)
    stop.set()
    for reader in readers:
        reader.join()
    assert seen == {whole}
