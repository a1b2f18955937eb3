"""Image folders and archives: real JPEG and PNG files; a stratified, seeded split; one clear line for what is wrong."""

import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jobs.errors import UserError
from jobs.images import image_folder

CLASSES = {"ape": 20, "bee": 10, "cat": 30}


def picture(value: int, size: tuple[int, int] = (6, 4)) -> Image.Image:
    """A grey image whose level tells it from all others."""
    return Image.new("RGB", size, (value, value, value))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """60 training and 6 test images of 4 x 6 pixels, lossless."""
    root, value = tmp_path / "images", 0
    for part, counts in (("train", CLASSES), ("test", dict.fromkeys(CLASSES, 2))):
        for name, count in counts.items():
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                picture(value).save(root / part / name / f"{index:03}.png")
                value += 3
    (root / "README.txt").write_text("not an image")
    return root


def zipped(folder: Path) -> Path:
    archive = folder.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, path.relative_to(folder))
    return archive


def test_every_image_is_in_one_part_with_its_label(folder: Path) -> None:
    data = image_folder(path=str(folder), validation=0.2)
    assert data.shape == (3, 4, 6)
    assert data.classes == 3
    levels: Counter[int] = Counter()
    for (images, labels), counts in (
        (data.train, [16, 8, 24]),
        (data.validation, [4, 2, 6]),
        (data.test, [2, 2, 2]),
    ):
        assert images.dtype == torch.uint8
        assert torch.bincount(labels).tolist() == counts
        found = images.flatten(1).float()
        assert bool((found.amin(1) == found.amax(1)).all())
        levels.update(found[:, 0].int().tolist())
        for level, label in zip(found[:, 0].int().tolist(), labels.tolist(), strict=True):
            position = level // 3 if level < 180 else (level - 180) // 3 * 1000
            expected = (position >= 20) + (position >= 30) if level < 180 else (level - 180) // 6
            assert label == expected
    assert sorted(levels) == list(range(0, 198, 3))
    assert set(levels.values()) == {1}


def test_normalised_by_the_statistics_of_the_training_images_alone(folder: Path) -> None:
    data = image_folder(path=str(folder), validation=0.2)
    ready = data.ready(data.train[0])
    assert ready.dtype == torch.float32
    torch.testing.assert_close(ready.mean((0, 2, 3)), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(ready.std((0, 2, 3), correction=0), torch.ones(3))
    assert data.statistics is not None
    floats = data.train[0].double()
    torch.testing.assert_close(data.statistics[0].flatten().double(), floats.mean((0, 2, 3)), rtol=1e-6, atol=0)


def test_the_split_is_seeded_and_an_archive_is_as_good_as_a_folder(folder: Path) -> None:
    first, second = image_folder(path=str(folder)), image_folder(path=str(zipped(folder)))
    other = image_folder(path=str(folder), seed=1)
    for one, two in ((first.train, second.train), (first.validation, second.validation), (first.test, second.test)):
        assert torch.equal(one[0], two[0])
        assert torch.equal(one[1], two[1])
    assert not torch.equal(first.validation[0], other.validation[0])


def test_jpeg_and_grey_images_are_read_and_resized(folder: Path) -> None:
    Image.fromarray(np.full((9, 9), 200, np.uint8)).save(folder / "train" / "ape" / "grey.jpg")
    picture(100, (50, 30)).save(folder / "test" / "cat" / "large.JPEG")
    data = image_folder(path=str(folder), size=8)
    assert data.shape == (3, 8, 8)
    assert len(data.test[1]) == 7


def _no_class(root: Path) -> None:
    picture(1).save(root / "train" / "stray.png")
    for name in CLASSES:
        for file in (root / "train" / name).iterdir():
            file.unlink()


def _unknown_class(root: Path) -> None:
    (root / "test" / "dog").mkdir()
    picture(1).save(root / "test" / "dog" / "1.png")


def _cut_short(root: Path) -> None:
    file = root / "train" / "bee" / "003.png"
    file.write_bytes(file.read_bytes()[:40])


def _no_image(root: Path) -> None:
    (root / "test" / "cat" / "000.jpg").write_text("hello")


def _other_size(root: Path) -> None:
    picture(1, (7, 7)).save(root / "train" / "cat" / "odd.png")


def _one_each(root: Path) -> None:
    for name in CLASSES:
        for file in sorted((root / "train" / name).iterdir())[1:]:
            file.unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_no_class, "has no images in train/CLASS/"),
        (_unknown_class, "test/dog has images, train/dog has none"),
        (_cut_short, "train/bee/003.png cannot be decoded"),
        (_no_image, "test/cat/000.jpg cannot be decoded"),
        (_other_size, "train/cat/odd.png has 7 x 7 pixels, others have 4 x 6: give options.size"),
        (_one_each, "options.validation = 0.1 of 3 training images leaves 3 for training and 0"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(damage: Callable[[Path], None], words: str, folder: Path) -> None:
    damage(folder)
    for path in (folder, zipped(folder)):
        with pytest.raises(UserError) as caught:
            image_folder(path=str(path))
        assert words in str(caught.value)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_paths_that_hold_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.zip").write_text("no archive")
    for path, words in (
        ("nowhere", "does not exist"),
        ("empty", "has no images in train/CLASS/"),
        ("file.zip", "is no zip archive"),
    ):
        with pytest.raises(UserError, match=words):
            image_folder(path=str(tmp_path / path))


def test_real_images(shared: Path) -> None:
    """CIFAR-10's archive: its published size, and statistics that are known to every paper."""
    data = image_folder(path=str(shared / "data" / "cifar10-jpeg.zip"), validation=0.1)
    assert (len(data.train[1]), len(data.validation[1]), len(data.test[1])) == (45_000, 5_000, 10_000)
    assert torch.bincount(data.validation[1]).tolist() == [500] * 10
    assert data.statistics is not None
    mean, std = (values.flatten() / 255 for values in data.statistics)
    torch.testing.assert_close(mean, torch.tensor([0.4914, 0.4822, 0.4465]), atol=2e-3, rtol=0)
    torch.testing.assert_close(std, torch.tensor([0.247, 0.243, 0.261]), atol=3e-3, rtol=0)
