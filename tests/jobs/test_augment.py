"""Random crops and mirror images: exactly those of some shift, the same for the same draws."""

import torch
from torch.nn.functional import pad

from jobs.augment import augment

IMAGES = torch.arange(40 * 3 * 5 * 6, dtype=torch.int32).view(40, 3, 5, 6) + 1


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_every_image_is_one_of_its_crops() -> None:
    moved = augment(IMAGES, 2, False, draws())
    shifts = set()
    for image, result in zip(IMAGES, moved, strict=True):
        padded = pad(image, (2, 2, 2, 2))
        found = [(y, x) for y in range(5) for x in range(5) if torch.equal(padded[:, y : y + 5, x : x + 6], result)]
        assert len(found) == 1
        shifts.add(found[0])
    assert len(shifts) > 12  # of 25
    assert {y for y, _ in shifts} == {x for _, x in shifts} == set(range(5))


def test_about_half_are_mirrored() -> None:
    images = augment(IMAGES, 0, True, draws())
    mirrored = [torch.equal(result, image.flip(2)) for image, result in zip(IMAGES, images, strict=True)]
    kept = [torch.equal(result, image) for image, result in zip(IMAGES, images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 10 < sum(mirrored) < 30


def test_nothing_is_drawn_for_nothing_and_the_same_for_the_same_seed() -> None:
    generator = draws()
    before = generator.get_state()
    assert augment(IMAGES, 0, False, generator) is IMAGES
    assert torch.equal(before, generator.get_state())
    assert torch.equal(augment(IMAGES, 2, True, draws(5)), augment(IMAGES, 2, True, draws(5)))
    assert not torch.equal(augment(IMAGES, 2, True, draws(5)), augment(IMAGES, 2, True, draws(6)))
    assert augment(IMAGES.to(torch.uint8), 2, True, draws()).dtype == torch.uint8
