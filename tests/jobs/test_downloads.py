"""Public data sets: torchvision's own loading code on small data in the published formats."""

import gzip
import hashlib
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from jobs.data import Dataset
from jobs.downloads import SIZES
from jobs.errors import UserError
from jobs.models.libraries import library
from jobs.workloads import DATA, DataReference, load_data, outlined

pytestmark = pytest.mark.usefixtures("torchvision")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COPS_DATA", str(tmp_path))
    load_data.cache_clear()
    return tmp_path


@pytest.fixture
def served() -> Iterator[Callable[[Path], str]]:
    """Serves a folder on loopback, and says where."""
    with ExitStack() as stack:

        def serve(folder: Path) -> str:
            class Quiet(SimpleHTTPRequestHandler):
                def log_message(self, *_: Any) -> None: ...

            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)))
            Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_port}/"

        yield serve


def idx(values: np.ndarray) -> bytes:
    """MNIST's file format: two zeros, type of number, dimensions, sizes, numbers."""
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


def written(folder: Path, kind: str, prefix: str, classes: int) -> dict[str, np.ndarray]:
    """40 training and 20 test images whose level tells them apart."""
    raw = folder / kind / "raw"
    raw.mkdir(parents=True)
    found = {}
    for part, first, count in (("train", 0, 40), ("test", 40, 20)):
        levels = np.arange(first, first + count, dtype=np.uint8)
        images, labels = np.broadcast_to(levels[:, None, None], (count, 28, 28)), levels % classes
        name = prefix.format(
            {"train": "train", "test": "test" if "{}" in prefix and "emnist" in prefix else "t10k"}[part]
        )
        (raw / f"{name}-images-idx3-ubyte").write_bytes(idx(np.ascontiguousarray(images)))
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(idx(labels))
        found[part] = levels
    return found


def check(data: Dataset, classes: int, kinds: int) -> None:
    """Every image is in one part, beside its label."""
    assert data.classes == classes
    levels = []
    for images, labels in (data.train, data.validation, data.test):
        assert images.dtype == torch.uint8
        level = images.flatten(1)[:, 0].long()
        assert torch.equal(level % kinds, labels)
        levels += level.tolist()
    assert sorted(levels) == list(range(60))
    assert min(data.test[0].flatten(1)[:, 0]) >= 40
    assert len(data.validation[1]) == 10
    assert abs(float(data.ready(data.train[0]).mean())) < 1e-5


@pytest.mark.parametrize(
    ("name", "kind", "prefix", "classes"),
    [
        ("mnist", "MNIST", "{}", 10),
        ("fashion_mnist", "FashionMNIST", "{}", 10),
        ("kmnist", "KMNIST", "{}", 10),
        ("emnist", "EMNIST", "emnist-balanced-{}", 47),
    ],
)
def test_the_mnist_family(name: str, kind: str, prefix: str, classes: int, folder: Path) -> None:
    written(folder, kind, prefix, 5)
    data = load_data(f"{name}(validation=0.25, seed=3)")
    assert data.shape == (1, 28, 28)
    check(data, classes, 5)
    other = load_data(f"{name}(validation=0.25, seed=4)")
    assert not torch.equal(data.validation[0], other.validation[0])


def cifar(folder: Path, kind: Any, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small batches as published, and their checksums where torchvision has the published ones."""
    root = folder / kind.base_folder
    root.mkdir()

    def batch(file: str, first: int, count: int) -> list[str]:
        levels = np.arange(first, first + count, dtype=np.uint8)
        body = {"data": np.repeat(levels[:, None], 3072, 1), key: (levels % 5).tolist()}
        (root / file).write_bytes(pickle.dumps(body))
        return [file, hashlib.md5((root / file).read_bytes()).hexdigest()]

    step = 40 // len(kind.train_list)
    train = [batch(file, step * place, step) for place, (file, _) in enumerate(kind.train_list)]
    test = [batch(kind.test_list[0][0], 40, 20)]
    meta = root / kind.meta["filename"]
    meta.write_bytes(pickle.dumps({kind.meta["key"]: [f"kind {number}" for number in range(5)]}))
    monkeypatch.setattr(kind, "train_list", train)
    monkeypatch.setattr(kind, "test_list", test)
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": hashlib.md5(meta.read_bytes()).hexdigest()})


@pytest.mark.parametrize(
    ("name", "kind", "key"), [("cifar10", "CIFAR10", "labels"), ("cifar100", "CIFAR100", "fine_labels")]
)
def test_cifar(name: str, kind: str, key: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = getattr(library("torchvision.datasets", "vision"), kind)
    cifar(folder, found, key, monkeypatch)
    data = load_data(f"{name}(validation=0.25)")
    assert data.shape == (3, 32, 32)
    check(data, 5, 5)


def test_a_changed_pickle_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = library("torchvision.datasets", "vision").CIFAR10
    cifar(folder, kind, "labels", monkeypatch)
    monkeypatch.setattr(kind, "url", "http://127.0.0.1:9/cifar.tar.gz")
    with (folder / kind.base_folder / "data_batch_2").open("ab") as file:
        file.write(b"!")
    with pytest.raises(UserError, match=r"data set cifar10 cannot be had: .*COPS_DATA") as caught:
        load_data("cifar10")
    assert str(folder) in str(caught.value)


def test_tiny_imagenet(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def picture(level: int) -> bytes:
        body = BytesIO()
        Image.new("RGB", (64, 64), (level, level, level)).save(body, "PNG")  # lossless; the name says JPEG, as there
        return body.getvalue()

    path = folder / "tiny-imagenet-200.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for level in range(40):
            archive.writestr(f"tiny-imagenet-200/train/n{level % 5}/images/n{level % 5}_{level}.JPEG", picture(level))
        lines = [f"val_{level}.JPEG\tn{level % 5}\t0\t0\t62\t62" for level in range(40, 60)]
        for level in range(40, 60):
            archive.writestr(f"tiny-imagenet-200/val/images/val_{level}.JPEG", picture(level))
        archive.writestr("tiny-imagenet-200/val/val_annotations.txt", "\n".join(lines) + "\n")
        archive.writestr("tiny-imagenet-200/test/images/test_0.JPEG", picture(99))
    monkeypatch.setattr("jobs.downloads.TINY", ("http://127.0.0.1:9/x.zip", hashlib.md5(path.read_bytes()).hexdigest()))
    data = load_data("tiny_imagenet(validation=0.25)")
    assert data.shape == (3, 64, 64)
    check(data, 5, 5)

    path.write_bytes(path.read_bytes() + b"!")
    load_data.cache_clear()
    with pytest.raises(UserError, match="data set tiny_imagenet cannot be had"):
        load_data("tiny_imagenet")


@pytest.mark.parametrize("name", SIZES)
def test_an_outline_has_the_published_size_and_takes_no_memory(name: str) -> None:
    data = outlined(f"{name}(validation=0.2)")
    shape, classes, training, test = SIZES[name]
    assert data.shape == shape
    assert data.classes == classes
    assert (len(data.train[1]), len(data.validation[1]), len(data.test[1])) == (0.8 * training, 0.2 * training, test)
    assert data.train[0].untyped_storage().nbytes() == 1
    assert DATA[name].__doc__


def test_packed_files_are_unpacked_and_what_is_downloaded_is_checked(
    folder: Path, served: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a server on this machine."""
    kind = library("torchvision.datasets", "vision").MNIST
    source = folder / "mirror"
    written(source, "MNIST", "{}", 5)
    resources = []
    for file in sorted((source / "MNIST" / "raw").iterdir()):
        packed = gzip.compress(file.read_bytes())
        (source / f"{file.name}.gz").write_bytes(packed)
        resources.append((f"{file.name}.gz", hashlib.md5(packed).hexdigest()))
    monkeypatch.setattr(kind, "mirrors", [served(source)])
    monkeypatch.setattr(kind, "resources", [(resources[0][0], "0" * 32), *resources[1:]])
    for ask in (load_data, lambda name: DataReference.model_validate(name).look()):
        with pytest.raises(UserError, match="data set mnist cannot be had"):
            ask("mnist")
    monkeypatch.setattr(kind, "resources", resources)
    DataReference.model_validate("mnist").look()
    monkeypatch.setattr(kind, "mirrors", [])
    check(load_data("mnist(validation=0.25)"), 10, 5)
