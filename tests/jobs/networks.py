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
