"""Networks that trials must live with, named by import path in the tests."""

import torch
from torch import Tensor, nn


class _Attention(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.stem(x[:, 0])
        logits: Tensor = self.head(self.attention(rows, rows, rows, need_weights=False)[0].mean(1))
        return logits


def attention(classes: int) -> nn.Module:
    """Rows of an image attend to one another."""
    return _Attention(classes)


def exploding(classes: int) -> nn.Module:
    """A network whose logits overflow float32."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, classes))
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1e25)
    return model


class _Branching(nn.Module):
    def __init__(self, classes: int, *, on_size: bool) -> None:
        super().__init__()
        self.head = nn.Linear(64, classes)
        self.on_size = on_size

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x.flatten(1))
        other = len(x) == 2 if self.on_size else bool(x.sum() > 0)
        return 2 * logits if other else logits


def branching(classes: int, on_size: bool = False) -> nn.Module:
    """A network that looks at the numbers, or at the size of its batch, which no traced graph can follow."""
    return _Branching(classes, on_size=on_size)
