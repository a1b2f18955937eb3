"""What pruning saves once a network is deployed: its size on disk and its time on this CPU, over the dense network's.

    python -m tests.benchmarks.deploy [--json] [--sparsity 0.7] [--model vgg16]

Filters are removed by the l1 norm of their weights, from the network as it is initialised: neither size nor time knows
whether it was trained.
"""

import argparse
import gzip
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn

from cops import Mask, prune
from cops.export import to_onnx
from cops.flops import multiply_adds
from cops.network import prunable
from cops.shrink import shrink
from jobs.downloads import SIZES, outline
from jobs.workloads import build_model
from tests.benchmarks.show import Measures, show

IMAGES = 32
REPEATS = 15


def seconds(runs: list[Callable[[], object]]) -> list[float]:
    """The median of each, taken in turns, so that whatever slows the machine slows all."""
    taken: list[list[float]] = [[] for _ in runs]
    for _ in range(REPEATS):
        for run, times in zip(runs, taken, strict=True):
            started = time.perf_counter()
            run()
            times.append(time.perf_counter() - started)
    return [sorted(times)[REPEATS // 2] for times in taken]


def masks(model: nn.Module, sparsity: float) -> dict[str, Mask]:
    """Whole filters of all layers but the classifier, and as many weights anywhere."""
    last = list(prunable(model))[-1]
    filters = prune(
        model, [], target="l1_filter", sparsity=sparsity, layout="filter", exclude=[last], min_density=0.05
    ).mask
    return {"filters": filters, "weights": prune(model, [], target="magnitude", sparsity=sparsity).mask}


def session(model: nn.Module, mask: Mask | None, inputs: torch.Tensor, folder: Path) -> Callable[[], object]:
    """Runs the network in onnxruntime."""
    import onnxruntime

    to_onnx(model, mask, inputs[:2], folder / "model.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    running = onnxruntime.InferenceSession(folder / "model.onnx", options)
    given = {running.get_inputs()[0].name: inputs.numpy()}
    return lambda: running.run(None, given)


def measure(name: str, sparsity: float) -> Measures:
    """Ratios to the dense network: of bytes, of multiply-adds, and of seconds for a batch."""
    data = outline(SIZES["cifar10"], 0.1)
    model = build_model(name, data, 0).eval()
    inputs = torch.randn(IMAGES, *data.shape)
    found = masks(model, sparsity)
    small = shrink(model, found["filters"], inputs[:2])
    sparse = found["weights"].apply(build_model(name, data, 0)).eval()

    def size(network: nn.Module) -> int:
        return len(save({key: value.contiguous() for key, value in network.state_dict().items()}))

    dense = size(model)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        found["weights"].save(folder / "mask.cops")
        runs = [
            lambda: model(inputs),
            lambda: small(inputs),
            session(model, None, inputs, folder),
            session(small, None, inputs, folder),
        ]
        with torch.inference_mode():
            before, after, onnx_before, onnx_after = seconds(runs)
        packed = len(gzip.compress(save(sparse.state_dict()), 6))
        file = (folder / "mask.cops").stat().st_size
    cost = [sum(multiply_adds(network, inputs).values()) for network in (small, model)]
    rows = {
        "disk: without removed filters": (size(small) / dense, 1 - sparsity + 0.1),
        "disk: any weights removed, zeros gzipped": (packed / dense, 1 - sparsity + 0.15),
        "disk: the mask file alone": (file / dense, 1 / 32),  # a bit for each weight
        "multiply-adds without removed filters": (cost[0] / cost[1], 1.0),
        "time without removed filters, PyTorch": (after / before, 1.0),
        "time without removed filters, onnxruntime": (onnx_after / onnx_before, 1.0),
    }
    return {row: {"value": value, "target": target, "better": "less"} for row, (value, target) in rows.items()}


def main() -> None:
    """Print what is saved."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--sparsity", type=float, default=0.7, help="fraction of the weights removed")
    parser.add_argument("--model", default="vgg16", help="for CIFAR-10")
    given = parser.parse_args()
    title = (
        f"{given.model}, sparsity {given.sparsity:g}, {torch.get_num_threads()} threads; ratios to the dense network"
    )
    show(measure(given.model, given.sparsity), title, as_json=given.json)


if __name__ == "__main__":
    main()
