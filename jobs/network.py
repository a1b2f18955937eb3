"""A trained network as a file: its tensors in safetensors format, and what builds the network around them."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from jobs.data import Dataset
from jobs.workloads import build_model

HEADER = "cops"  # one entry: of several, safetensors does not keep the order, and so not the bytes


@dataclass(frozen=True)
class Origin:
    """What builds a network, and what it takes.

    Args:
        model: reference, as in the sweep file.
        seed: of its initialisation.
        shape: channels, height and width of an input.
        classes: number of outputs.
        mean: of the training images by channel, on a scale of 0 to 255, and
        std: their standard deviation; (pixels - mean) / std is an input. None where the data are inputs as they are.
        trial: content key of the trial that trained it.
    """

    model: str
    seed: int
    shape: tuple[int, int, int]
    classes: int
    mean: list[float] | None
    std: list[float] | None
    trial: str

    @classmethod
    def of(cls, model: str, seed: int, data: Dataset, trial: str) -> Self:
        """That of a network on `data`."""
        mean, std = (part.flatten().tolist() for part in data.statistics) if data.statistics else (None, None)
        return cls(model, seed, data.shape, data.classes, mean, std, trial)


@dataclass(frozen=True)
class Trained:
    """A trained network: its tensors by name, on the CPU, and what builds it."""

    origin: Origin
    state: dict[str, Tensor]

    @classmethod
    def of(cls, network: nn.Module, origin: Origin) -> Self:
        """A copy of what a network has learned."""
        tensors = {name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)}
        layout = torch.contiguous_format
        return cls(origin, {name: value.cpu().clone(memory_format=layout) for name, value in tensors.items()})

    def save(self, path: Path) -> None:
        """Write the file; equal networks give equal bytes."""
        path.write_bytes(save(self.state, {HEADER: json.dumps(asdict(self.origin), sort_keys=True)}))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file. Nothing in it is executed.

        Raises:
            ValueError: it was not written by `save`.
        """
        with safe_open(path, "pt") as file:
            about: dict[str, Any] = json.loads((file.metadata() or {}).get(HEADER, "{}"))
            if not about:
                raise ValueError(f"'{path.name}' says nothing of its network")
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
        return cls(Origin(**{**about, "shape": tuple(about["shape"])}), state)

    def build(self) -> nn.Module:
        """The network, in eval mode.

        Raises:
            UserError: its model cannot be imported or built.
            RuntimeError: its model has changed, and has other tensors now.
        """
        origin = self.origin
        one = torch.zeros(1, *origin.shape), torch.zeros(1, dtype=torch.int64)
        network = build_model(origin.model, Dataset(one, one, one, origin.classes), origin.seed)
        network.load_state_dict(self.state)
        return network.eval()
