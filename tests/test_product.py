"""The whole product, as a user drives it: a sweep, what MLflow keeps of it, the API, the mask, a browser."""

import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from http.client import HTTPResponse
from importlib.metadata import version
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

import mlflow
import pytest
import torch
import yaml
from mlflow.entities import Run
from playwright.sync_api import Page, sync_playwright
from safetensors.torch import load_file

from cops import Mask
from cops.export import to_onnx
from cops.network import prunable
from cops.shrink import shrink
from jobs.data import digest
from jobs.workloads import build_model, load_data
from tests.conftest import ROOT, SMOKE, Home, Swept, free_port, new_home, run_command

CHROMIUM = shutil.which("chromium")
TIMEOUT = 120


@pytest.fixture(scope="module")
def served(swept: Swept) -> Iterator[Swept]:
    """`cops serve` over the finished sweep; stopped as a user stops it."""
    command = Path(sys.executable).with_name("cops")
    server = subprocess.Popen(
        [command, "serve"], env=swept.home.environment, cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline and server.poll() is None:
        try:
            assert get(swept, "/healthz") == {"status": "ok"}
            break
        except OSError:
            time.sleep(0.2)
    assert get(swept, "/healthz") == {"status": "ok"}
    yield swept
    server.send_signal(signal.SIGINT)
    server.communicate(timeout=TIMEOUT)
    assert not (swept.home.path / "mlflow.pid").exists()


def get(swept: Swept, path: str, **query: object) -> object:
    with fetch(swept, path, **query) as answer:
        return json.load(answer)


def fetch(swept: Swept, path: str, **query: object) -> HTTPResponse:
    answer: HTTPResponse = urlopen(f"http://127.0.0.1:{swept.home.api_port}{path}?{urlencode(query)}", timeout=TIMEOUT)
    return answer


def runs_of(swept: Swept) -> list[Run]:
    client = mlflow.MlflowClient(f"http://127.0.0.1:{swept.home.mlflow_port}")
    experiment = client.get_experiment_by_name("cops")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], max_results=1000))


def test_the_sweep_prints_its_table(swept: Swept) -> None:
    assert "trials 7/7 7 done" in swept.output
    for line in ("best COPS mask", "snip|grasp", "alpha", "magnitude", "dense", "make serve"):
        assert line in swept.output
    assert "Traceback" not in swept.output


def test_mlflow_keeps_one_parent_and_every_trial(served: Swept) -> None:
    runs = runs_of(served)
    parents = [run for run in runs if run.data.tags.get("cops.kind") == "sweep"]
    assert [run.info.run_name for run in parents] == ["smoke"]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parents[0].info.run_id]
    assert len(children) == len(runs) - 1 == 7
    assert {run.info.status for run in runs} == {"FINISHED"}
    names = sorted(run.info.run_name or "" for run in children)
    assert sum(bool(re.fullmatch(r"snip\|grasp @0\.9 a=\d\.\d\d( #1)?", name)) for name in names) == 3
    assert {"dense", "dense #1", "magnitude @0.9", "magnitude @0.9 #1"} <= set(names)
    assert len({run.data.tags["cops.trial"] for run in children}) == 7


def test_every_run_says_where_it_comes_from(served: Swept) -> None:
    for run in runs_of(served):
        tags = run.data.tags
        assert tags["cops.sweep_name"] == "smoke"
        assert tags["mlflow.source.name"] == SMOKE.name
        if (ROOT / ".git").exists():
            commit = tags["mlflow.source.git.commit"]
            kind = subprocess.run(
                ["git", "cat-file", "-t", commit], cwd=ROOT, capture_output=True, text=True, check=True
            )
            assert kind.stdout.strip() == "commit"
            assert tags["cops.code"].removesuffix("-dirty") == commit[:12]
        if tags["cops.kind"] == "sweep":
            assert tags["cops.version"] == version("cops-sweep")
            assert tags["cops.sweep_file_sha256"] == hashlib.sha256(SMOKE.read_bytes()).hexdigest()
            assert run.inputs is not None
            (data,) = (given.dataset for given in run.inputs.dataset_inputs)
            assert data.name == "digits"
            profile = json.loads(data.profile or "{}")
            assert profile["sha256"] == digest(load_data("digits").to_arrays())
            assert profile["sha256"].startswith(data.digest)
            sizes = {"train": 1077, "validation": 360, "test": 360, "num_rows": 1797}
            assert sizes.items() | {"classes": 10}.items() <= {n: v for n, v in profile.items() if n != "shape"}.items()


def test_the_champion_is_loaded_in_one_line(served: Swept, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network of the winner's first confirmation, with the accuracy that its run has; nothing is unpickled."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{served.home.mlflow_port}")
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")

    network = mlflow.pytorch.load_model("models:/convnet.digits.snip_grasp.0.9@champion")

    champion = mlflow.MlflowClient().get_model_version_by_alias("convnet.digits.snip_grasp.0.9", "champion")
    run = mlflow.get_run(champion.run_id or "")
    data = load_data("digits")
    with torch.no_grad():
        right = (network(data.test[0]).argmax(1) == data.test[1]).double().mean().item()
    assert right == run.data.metrics["test_accuracy"] == float(champion.tags["test_accuracy"])
    assert run.data.tags["cops.mask"] == champion.tags["cops.mask"]
    assert run.data.params["training_seed"] == "1"
    weights = dict(network.named_parameters())
    removed = sum(int((weights[name] == 0).sum()) for name in prunable(build_model("convnet", data, seed=0)))
    total = sum(weights[name].numel() for name in prunable(build_model("convnet", data, seed=0)))
    assert total - removed == run.data.metrics["kept"]


def test_the_champion_runs_in_onnxruntime(served: Swept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a sweep trained, taken from the API, gives the champion's outputs as an ONNX file, and as a smaller one."""
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{served.home.mlflow_port}")
    name = "convnet.digits.snip_grasp.0.9"
    champion = mlflow.MlflowClient().get_model_version_by_alias(name, "champion")
    run = mlflow.get_run(champion.run_id or "")
    for file in ("file", "weights"):
        with fetch(served, f"/v1/masks/{champion.tags['cops.mask']}/{file}") as answer:
            (tmp_path / file).write_bytes(answer.read())
    data, mask = load_data("digits"), Mask.load(tmp_path / "file")
    model = build_model("convnet", data, seed=0)
    model.load_state_dict(load_file(tmp_path / "weights"))
    inputs, labels = data.ready(data.test[0]), data.test[1]
    to_onnx(model, mask, inputs[:2], tmp_path / "pruned.onnx")
    to_onnx(shrink(model, mask, inputs[:2]), None, inputs[:2], tmp_path / "small.onnx")

    with torch.no_grad():
        expected = mlflow.pytorch.load_model(f"models:/{name}@champion")(inputs)
    for file in ("pruned.onnx", "small.onnx"):
        session = onnxruntime.InferenceSession(tmp_path / file)
        (found,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-4)
        right = (torch.from_numpy(found).argmax(1) == labels).double().mean().item()
        assert right == pytest.approx(run.data.metrics["test_accuracy"], abs=1 / len(labels))


def test_test_accuracy_is_measured_for_confirmations_alone(served: Swept) -> None:
    for run in runs_of(served):
        kind = run.data.tags["cops.kind"]
        assert ("test_accuracy" in run.data.metrics) == (kind == "confirmation")


def test_a_mask_is_named_by_its_content(served: Swept) -> None:
    """A confirmation, run in whichever process, has the mask of the search trial that it confirms."""
    masks = [run.data.tags["cops.mask"] for run in runs_of(served) if "cops.mask" in run.data.tags]
    assert len(masks) == 5
    assert len(set(masks)) == 3


def test_best_mask_is_found_fetched_and_applied(served: Swept, tmp_path: Path) -> None:
    best = get(served, "/v1/masks/best", model="convnet", data="digits", sparsity=0.9)
    assert isinstance(best, dict)
    every = get(served, "/v1/masks", model="convnet", data="digits")
    assert isinstance(every, list)
    confirmed = [mask for mask in every if mask["confirmations"]]
    assert best["validation_accuracy"] == max(mask["validation_accuracy"] for mask in confirmed)
    assert get(served, f"/v1/masks/{best['id']}") == best

    with fetch(served, f"/v1/masks/{best['id']}/file") as answer:
        (tmp_path / "mask.cops").write_bytes(answer.read())
    mask = Mask.load(tmp_path / "mask.cops")
    assert mask.sparsity == pytest.approx(0.9, abs=1e-4)
    model = mask.apply(build_model("convnet", load_data("digits"), seed=0))
    for name, weight in prunable(model).items():
        assert bool((weight[~mask.kept[name]] == 0).all())
        assert bool((weight[mask.kept[name]] != 0).all())


def test_best_mask_of_a_pair(served: Swept) -> None:
    pair = get(served, "/v1/masks/best", model="convnet", data="digits", sparsity=0.9, target="snip", control="grasp")
    assert isinstance(pair, dict)
    assert pair["method"] == "snip|grasp"
    assert 0 <= pair["alpha"]["grasp"] <= 1


@pytest.mark.parametrize(
    ("path", "query", "status", "words"),
    [
        ("/v1/masks/best", {"model": "convnet", "data": "digits", "sparsity": 0.5}, 404, "sparsities with masks: 0.9"),
        ("/v1/masks/best", {"model": "vgg", "data": "digits", "sparsity": 0.9}, 404, "model=vgg"),
        ("/v1/masks/best", {"model": "convnet", "data": "digits", "sparsity": 1.5}, 422, "less than 1"),
        ("/v1/masks/best", {"model": "convnet", "data": "digits"}, 422, "sparsity"),
        ("/v1/masks/best", {"model": "' or 1=1", "data": "digits", "sparsity": 0.9}, 404, "model=' or 1=1"),
        (f"/v1/masks/{'0' * 32}", {}, 404, "no mask"),
        ("/v1/masks/..%2f..%2fmlflow.db/file", {}, 404, "Not Found"),
        ("/v1/masks/nothex/file", {}, 422, "mask_id"),
    ],
)
def test_the_api_says_what_is_wrong(
    served: Swept, path: str, query: dict[str, object], status: int, words: str
) -> None:
    with pytest.raises(HTTPError) as caught:
        fetch(served, path, **query)
    with caught.value as answer:
        assert answer.code == status
        assert words in answer.read().decode()


def test_serve_refuses_a_port_in_use(served: Swept, tmp_path: Path) -> None:
    home = new_home(tmp_path / "home")
    command = Path(sys.executable).with_name("cops")
    taken = subprocess.run(
        [command, "serve"],
        env=home.environment | {"COPS_API_PORT": str(served.home.api_port)},
        text=True,
        capture_output=True,
        check=False,
        timeout=TIMEOUT,
    )
    assert taken.returncode == 2
    assert taken.stdout == ""
    assert taken.stderr.count("\n") == 1
    assert f"port {served.home.api_port} is in use" in taken.stderr
    assert "COPS_API_PORT" in taken.stderr
    assert not home.path.exists()


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    if CHROMIUM is None:
        pytest.skip("no chromium here (Debian: apt-get install chromium)")
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=[*quiet, "--disable-sync", "--no-first-run"])
        page = browser.new_page(viewport={"width": 1500, "height": 950})
        page.add_init_script("localStorage.setItem('mlflow.workflowType_v1', '\"machine_learning\"')")
        page.add_init_script("localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')")
        yield page
        browser.close()


def test_a_person_finds_the_sweep_in_the_browser(served: Swept, page: Page) -> None:
    parent = next(run for run in runs_of(served) if run.data.tags["cops.kind"] == "sweep").info
    here = f"http://127.0.0.1:{served.home.mlflow_port}/#/experiments/{parent.experiment_id}/runs"
    page.goto(here)
    page.get_by_role("link", name="smoke").wait_for(timeout=60_000)

    child = next(run for run in runs_of(served) if (run.info.run_name or "").startswith("snip|grasp"))
    page.goto(f"{here}/{child.info.run_id}")
    page.get_by_role("heading", name=child.info.run_name).wait_for(timeout=60_000)
    page.get_by_text("validation_accuracy", exact=True).first.wait_for(timeout=60_000)
    page.get_by_role("link", name="smoke").wait_for(timeout=60_000)


def test_trials_are_nested_in_their_sweep(served: Swept, page: Page) -> None:
    parent = next(run for run in runs_of(served) if run.data.tags["cops.kind"] == "sweep").info
    page.goto(f"http://127.0.0.1:{served.home.mlflow_port}/#/experiments/{parent.experiment_id}/runs")
    sweep = page.get_by_role("row").filter(has=page.get_by_role("link", name="smoke", exact=True))
    for text in ("smoke.yaml", "digits ("):  # source and data set, in columns that scroll apart from the name's
        page.get_by_text(text).first.wait_for(timeout=60_000)
    trial = page.get_by_role("link", name="magnitude @0.9 #1")
    assert trial.count() == 0
    sweep.get_by_role("button").first.click()
    trial.wait_for(timeout=60_000)


def test_a_runs_curves_are_drawn(served: Swept, page: Page) -> None:
    run = next(run for run in runs_of(served) if (run.info.run_name or "").endswith("#1")).info
    here = f"http://127.0.0.1:{served.home.mlflow_port}/#/experiments/{run.experiment_id}/runs/{run.run_id}"
    page.goto(f"{here}/model-metrics")
    for name in ("epoch_training_loss", "epoch_validation_accuracy"):
        page.get_by_text(name, exact=True).first.wait_for(timeout=60_000)
    page.locator(".js-plotly-plot .scatterlayer .trace").first.wait_for(timeout=60_000)


def test_the_registered_model_has_a_page(served: Swept, page: Page) -> None:
    name = "convnet.digits.snip_grasp.0.9"
    models = f"http://127.0.0.1:{served.home.mlflow_port}/#/models"
    page.goto(f"{models}/{name}")
    page.get_by_role("heading", name=name).wait_for(timeout=60_000)
    page.get_by_text(f'mlflow.pytorch.load_model("models:/{name}@champion")').wait_for(timeout=60_000)
    page.get_by_role("link", name="Version 1").wait_for(timeout=60_000)
    page.goto(f"{models}/{name}/versions/1")
    page.get_by_text("@ champion").wait_for(timeout=60_000)
    best = next(run for run in runs_of(served) if re.fullmatch(r"snip\|grasp .* #1", run.info.run_name or ""))
    page.get_by_role("link", name=best.info.run_name).wait_for(timeout=60_000)
    page.get_by_text(best.data.tags["cops.mask"]).wait_for(timeout=60_000)
    page.get_by_text(best.data.tags["cops.weights_sha256"]).wait_for(timeout=60_000)


def test_mlflow_shows_the_report_inline(served: Swept, page: Page) -> None:
    parent = next(run for run in runs_of(served) if run.data.tags["cops.kind"] == "sweep").info
    runs = f"http://127.0.0.1:{served.home.mlflow_port}/#/experiments/{parent.experiment_id}/runs"
    page.goto(f"{runs}/{parent.run_id}/artifacts/report.html")
    report = page.frame_locator("iframe")
    report.get_by_role("heading", name="Sweep smoke").wait_for(timeout=60_000)
    assert report.locator("tbody tr").count() == 3  # dense, magnitude, snip|grasp
    widths = report.locator("img").evaluate_all("images => images.map(image => image.naturalWidth)")
    assert len(widths) >= 6
    assert all(width > 300 for width in widths)


def test_the_api_documents_itself(served: Swept) -> None:
    schema = get(served, "/openapi.json")
    assert isinstance(schema, dict)
    assert {"/v1/masks", "/v1/masks/best", "/v1/masks/{mask_id}", "/v1/masks/{mask_id}/file"} <= set(schema["paths"])


@pytest.mark.parametrize(("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "cancelled")])
def test_an_interrupted_sweep_keeps_what_it_has(tmp_path: Path, number: signal.Signals, word: str) -> None:
    """Ctrl-C, or `ray job stop`, in the middle: exit code 130, the table so far, run KILLED, nothing left running."""
    home = new_home(tmp_path / "home")
    command = [sys.executable, "-m", "jobs", "jobs/sweeps/demo.yaml"]
    sweep = subprocess.Popen(command, cwd=ROOT, env=home.environment, stdout=subprocess.PIPE, text=True)
    assert sweep.stdout is not None
    said = ""
    while "best" not in said:
        line = sweep.stdout.readline()
        assert line, said
        said += line
    sweep.send_signal(number)
    said += sweep.communicate(timeout=TIMEOUT)[0]
    assert sweep.returncode == 130
    assert re.search(rf"{word}: \d+ of 102 trials have ended", said)
    assert "* one search run, not confirmed" in said
    assert not (home.path / "mlflow.pid").exists()

    database = sqlite3.connect(home.path / "mlflow.db")
    statuses = [status for (status,) in database.execute("select status from runs where name = 'demo'")]
    running = database.execute("select count(*) from runs where status = 'RUNNING'").fetchone()
    database.close()
    assert statuses == ["KILLED"]
    assert running == (0,)


def test_a_cell_that_fails_says_why_and_the_rest_goes_on(tmp_path: Path) -> None:
    """One image gives every filter the same entropy, zero: that score cannot rank the weights."""
    file = tmp_path / "sweep.yaml"
    tree = yaml.safe_load(SMOKE.read_text())
    tree |= {"baselines": ["entropy_filter"], "scoring": {"batch_size": 1}, "search": {"trials": 1}, "confirmations": 0}
    file.write_text(yaml.safe_dump(tree))
    home = new_home(tmp_path / "home")
    done = run_command(home, "-m", "jobs", str(file))
    assert done.returncode == 1
    assert "failed: entropy_filter @0.9: ScoreError: score 'entropy_filter' is zero for every weight" in done.stdout
    assert "snip|grasp" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr

    database = sqlite3.connect(home.path / "mlflow.db")
    statuses = dict(database.execute("select name, status from runs"))
    database.close()
    assert statuses.pop("entropy_filter @0.9") == "FAILED"
    assert set(statuses.values()) == {"FINISHED"}
    assert len(statuses) == 2


@pytest.fixture(scope="module")
def ray_head(swept: Swept) -> Iterator[tuple[str, dict[str, str]]]:
    """A head node on loopback with token authentication: its jobs address, and the environment to reach it."""
    bin_ = Path(sys.executable).parent
    env = swept.home.environment | {
        "PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
    jobs, folder = free_port(), tempfile.mkdtemp(prefix="cops-")  # short, since Ray's socket paths may not be long
    ports = {"port": free_port(), "dashboard-port": jobs, "ray-client-server-port": free_port()}
    ports |= {"dashboard-agent-listen-port": free_port(), "dashboard-agent-grpc-port": free_port()}
    command = [str(bin_ / "ray"), "start", "--head", "--block", "--temp-dir", folder, "--num-cpus", "2"]
    command += [f"--{name}={port}" for name, port in ports.items()]
    log = Path(folder, "head.log")
    with log.open("w") as output:
        head = subprocess.Popen(command, env=env, cwd=ROOT, stdout=output, stderr=output, start_new_session=True)
    deadline = time.monotonic() + TIMEOUT
    address = f"http://127.0.0.1:{jobs}"
    listing = [str(bin_ / "ray"), "job", "list", "--address", address]
    while subprocess.run(listing, env=env, capture_output=True, check=False).returncode:
        assert time.monotonic() < deadline, log.read_text()
        assert head.poll() is None, log.read_text()
    yield address, env
    os.killpg(head.pid, signal.SIGTERM)
    head.wait(TIMEOUT)
    shutil.rmtree(folder, ignore_errors=True)


def submit(ray_head: tuple[str, dict[str, str]], file: str, home: Home) -> subprocess.CompletedProcess[str]:
    """`ray job submit` of a sweep file, followed to its end."""
    address, env = ray_head
    where = {name: value for name, value in home.environment.items() if name.startswith("COPS_")}
    command = [str(Path(sys.executable).with_name("ray")), "job", "submit", "--address", address]
    command += ["--working-dir", ".", "--runtime-env-json", json.dumps({"env_vars": where})]
    command += ["--", "python", "-m", "jobs", file]
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)


def ended(home: Home) -> dict[str, dict[str, float]]:
    """Metrics of the finished trials of an embedded MLflow, by key."""
    database = sqlite3.connect(home.path / "mlflow.db")
    trials = database.execute(
        "select value, run_uuid from tags join runs using (run_uuid) where key = 'cops.trial' and status = 'FINISHED'"
    ).fetchall()
    found = {
        key: dict(database.execute("select key, value from latest_metrics where run_uuid = ?", (run,)))
        for key, run in trials
    }
    assert len(found) == len(trials)
    database.close()
    return found


def test_the_same_sweep_as_a_ray_job(
    served: Swept, ray_head: tuple[str, dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """`ray job submit` to a real cluster, with an MLflow of its own: the same trials with the same accuracies."""
    home = new_home(tmp_path_factory.mktemp("job") / "home")
    done = submit(ray_head, str(SMOKE.relative_to(ROOT)), home)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "best COPS mask" in done.stdout

    local, remote = ended(served.home), ended(home)
    shared = local.keys() & remote.keys()
    # Which alphas TPE proposes depends on which trial ends first; whatever ran in both must agree.
    assert len(remote) == len(local) == 7
    assert len(shared) >= 5
    for key in shared:
        for metric in ("validation_accuracy", "test_accuracy", "target_kept"):
            assert local[key].get(metric) == remote[key].get(metric)


def test_what_has_run_is_not_run_again(served: Swept, tmp_path: Path) -> None:
    """The same command on a finished sweep prints its table; another sweep takes over what it shares with it."""
    before = ended(served.home)
    again = run_command(served.home, "-m", "jobs", str(SMOKE))
    assert again.returncode == 0, again.stdout + again.stderr
    table = served.output[served.output.index("convnet on digits") :]
    assert again.stdout.endswith(table)
    assert "known already: 7 trials" in again.stdout
    assert ended(served.home) == before
    registry = mlflow.MlflowClient(f"http://127.0.0.1:{served.home.mlflow_port}")
    assert [str(one.version) for one in registry.search_model_versions()] == ["1"]

    tree = yaml.safe_load(SMOKE.read_text()) | {"name": "larger", "search": {"trials": 3}}
    (tmp_path / "larger.yaml").write_text(yaml.safe_dump(tree))
    more = run_command(served.home, "-m", "jobs", str(tmp_path / "larger.yaml"))
    assert more.returncode == 0, more.stdout + more.stderr
    after = ended(served.home)
    assert before.items() <= after.items()
    assert len(after) <= len(before) + 2  # one search trial, and a confirmation if it wins
    assert "score vectors computed: 0" in more.stdout


def test_a_job_with_bad_input_fails_with_its_one_line(served: Swept, ray_head: tuple[str, dict[str, str]]) -> None:
    done = submit(ray_head, "nowhere.yaml", served.home)
    assert done.returncode != 0
    assert "sweep file 'nowhere.yaml' does not exist" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout


def test_the_cluster_asks_for_its_token(ray_head: tuple[str, dict[str, str]]) -> None:
    address, _ = ray_head
    with pytest.raises(HTTPError) as caught:
        urlopen(f"{address}/api/jobs/", timeout=TIMEOUT)
    with caught.value as answer:
        assert answer.code == 401
