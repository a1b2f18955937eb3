"""Models and data sets by name or import path: options are checked before they are used, and named when wrong."""

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from jobs.data import Dataset, digits
from jobs.errors import UserError
from jobs.workloads import DataReference, ModelReference, build_model, load_data

MODULE = """
import torch
from torch import nn
from jobs.data import Dataset

class Net(nn.Sequential):
    def __init__(self, shape, classes, depth=1):
        super().__init__(nn.Flatten(), *[nn.Linear(64, 64) for _ in range(depth)], nn.Linear(64, classes))

def torchvision_like(num_classes=1000, **options):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))

def wrong_classes(classes): return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
def wrong_input(classes): return nn.Linear(7, classes)
def broken(classes): raise OSError("no weights here")
def no_module(classes): return 5
number = 5

def noise(count=32):
    def part(seed):
        draws = torch.Generator().manual_seed(seed)
        return torch.randn(count, 1, 8, 8, generator=draws), torch.arange(count) % 4
    return Dataset(part(0), part(1), part(2), classes=4)
def no_data(): return [1, 2]
def lost(): raise ConnectionError("no disk")
"""


@pytest.fixture(autouse=True)
def _importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lab_models.py").write_text(MODULE)
    (tmp_path / "lab_broken.py").write_text("import no_such_library")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("lab_models", "lab_broken"):
        sys.modules.pop(name, None)
    load_data.cache_clear()


def test_models_and_data_by_import_path() -> None:
    data = load_data("lab_models:noise(count=48)")
    assert len(data.train[1]) == 48
    model = build_model("lab_models:Net(depth=3)", data, 0)
    assert len(list(model.children())) == 5
    assert model(data.train[0]).shape == (48, 4)
    assert build_model('lab_models:torchvision_like(pretrained="no")', data, 0)(data.train[0]).shape == (48, 4)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lab_broken:Net", "model 'lab_broken:Net': importing lab_broken fails: ModuleNotFoundError: No module named"),
        ("lab_nowhere:Net", "importing lab_nowhere fails"),
        ("lab_models:Nett", "unknown attribute 'Nett': did you mean 'Net'"),
        ("lab_models:number", "is int, not something to call"),
        ("lab_models:Net(dept=3)", "unknown option 'dept': did you mean 'depth'"),
        ("lab_models:broken", "model 'lab_models:broken' cannot be built: OSError: no weights here"),
        ("lab_models:no_module", "gives int: it should give a torch.nn.Module"),
        ("lab_models:wrong_classes", r"gives outputs \(1, 3\) for one input, not \(1, 10\)"),
        ("lab_models:wrong_input", r"cannot take inputs of shape \(1, 8, 8\)"),
        ("vgg16", r"model 'vgg16' cannot take inputs of shape \(1, 8, 8\)"),
    ],
)
def test_a_model_that_cannot_be_used_is_named(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        build_model(name, digits(), 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lab_models:no_data", "gives list: it should give a jobs.data.Dataset"),
        ("lab_models:lost", "data set 'lab_models:lost' cannot be loaded: ConnectionError: no disk"),
        ("lab_models:noise(size=3)", "data set 'lab_models:noise': unknown option 'size': known are count"),
        ('image_folder(path="/nowhere")', "data set '/nowhere' does not exist"),
    ],
)
def test_a_data_set_that_cannot_be_used_is_named(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_data(name)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("resnet_20", "did you mean 'resnet20'"),
        ("no.such.path", "import paths, package.module:attribute"),
        ("os:system('x')", "should be a name"),
        ("resnet20(width=0.5", "should be a name, or name"),
        ("resnet20(0.5)", "should be a name, or name"),
        ("resnet20(width=os)", "should be a name, or name"),
        ("resnet20(width=-1)", "width = -1: should be greater than 0"),
        ({"name": "resnet20", "options": {"width": "wide"}}, "width = 'wide': should be a valid number"),
        ({"name": "resnet20", "options": {"depth": 3}}, "unknown option 'depth'.*known are width"),
        ({"name": "resnet20", "option": {}}, "option"),
        (5, "valid dictionary"),
    ],
)
def test_a_bad_reference_is_refused_when_it_is_read(value: object, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ModelReference.model_validate(value)


def test_a_data_set_must_have_its_path() -> None:
    with pytest.raises(ValidationError, match="data set image_folder: key 'path' is missing"):
        DataReference.model_validate("image_folder")


@given(width=st.floats(0.01, 16), path=st.text(), size=st.none() | st.integers(1, 4096))
def test_the_text_of_a_reference_reads_back(width: float, path: str, size: int | None) -> None:
    for reference in (
        ModelReference.model_validate({"name": "vgg16", "options": {"width": width}}),
        DataReference.model_validate({"name": "image_folder", "options": {"path": path, "size": size}}),
    ):
        again = type(reference).model_validate(str(reference))
        assert str(again) == str(reference)
        assert "'" not in str(again)
        assert type(reference).model_validate(reference.model_dump()) == again


def test_options_at_their_default_leave_no_trace() -> None:
    assert str(ModelReference.model_validate("vgg16(width=1.0)")) == "vgg16"
    for options in ({"a": 1, "b": 2}, {"b": 2, "a": 1}):
        reference = ModelReference.model_validate({"name": "lab_models:Net", "options": options})
        assert str(reference) == "lab_models:Net(a=1, b=2)"


def test_nothing_is_imported_to_read_a_reference() -> None:
    ModelReference.model_validate("lab_broken:Net")
    assert "lab_broken" not in sys.modules


def test_a_data_set_as_arrays_and_back_without_a_copy() -> None:
    import numpy as np

    images = torch.randint(256, (6, 3, 4, 4), dtype=torch.uint8)
    samples = images, torch.arange(6)
    data = Dataset(samples, samples, samples, 6, (torch.ones(3, 1, 1), torch.full((3, 1, 1), 2.0)))
    arrays = data.to_arrays()
    arrays["train"][0].flags.writeable = False  # as in Ray's object store
    again = Dataset.from_arrays(arrays)
    assert np.shares_memory(again.train[0].numpy(), images.numpy())
    assert torch.equal(again.ready(again.test[0]), (images.float() - 1) / 2)
    assert again.classes == 6
    assert Dataset.from_arrays(digits().to_arrays()).statistics is None
