"""Random crops and mirror images of a whole batch at once, on its device."""

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad


def augment(images: Tensor, crop: int, flip: bool, draws: Generator) -> Tensor:
    """Each image moved by up to `crop` pixels each way, zeros coming in, and with `flip` mirrored half the time.

    Args:
        images: (n, channels, height, width), of any type.
        crop: pixels, 0 for none.
        flip: left to right.
        draws: on the CPU, so that every device gets the same.
    """
    count, _, height, width = images.shape
    device = images.device
    if crop:
        shifts = torch.randint(2 * crop + 1, (2, count, 1), generator=draws).to(device)
        rows, columns = (
            shift + torch.arange(n, device=device) for shift, n in zip(shifts, (height, width), strict=True)
        )
        each = torch.arange(count, device=device)[:, None, None]
        padded = pad(images, (crop, crop, crop, crop))
        images = padded[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if flip:
        mirrored = (torch.rand(count, generator=draws) < 0.5).to(device)
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    return images
