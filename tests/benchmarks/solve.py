"""Cost of the solver, as ratios measured side by side in one run: `python -m tests.benchmarks.solve [--json]`.

At 14.7M weights the scores are VGG-16's own on CIFAR-10 images. Others are synthetic: SNIP-like targets and GraSP-like
controls, products of normal draws, with layers whose scales differ by three orders of magnitude. HiGHS has a time
limit; where it runs into it, the ratio is a lower bound. The better of simplex and interior point counts.
"""

import argparse
import ctypes
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from cops._sums import total
from cops.levels import relative_kappa
from cops.lp import solve
from cops.path import path
from tests.benchmarks import real
from tests.benchmarks.show import Measures, show

VGG16 = 14_715_584
LARGE = 138_000_000
HIGHS_SECONDS = 40.0
Source = Callable[[int, int], list[Tensor]]


def synthetic(count: int, d: int) -> list[Tensor]:
    """`count` float32 scores (d,) of l1 norm 1: magnitudes first, signed after."""
    generator = torch.Generator().manual_seed(0)
    scores = []
    for k in range(count):
        score = torch.randn(d, generator=generator).mul_(torch.randn(d, generator=generator))
        if k == 0:
            score.abs_()
        for layer in score.tensor_split(16):
            layer.mul_(10.0 ** (3.0 * float(torch.rand((), generator=generator))))
        norm = total(score.abs())
        scores.append(score.div_(norm))
    return scores


def real_or_synthetic(count: int, d: int) -> list[Tensor]:
    """Real scores of VGG-16 on CIFAR-10 at its size, where the images are there; synthetic ones elsewhere."""
    return real.scores(count) if d == VGG16 and real.IMAGES_FILE.exists() else synthetic(count, d)


def timed(*calls: Callable[[], Any], repeats: int = 5) -> list[float]:
    """Median seconds of each call; the calls take turns, so that a busy machine slows all of them alike."""
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats + 1):
        for call, taken in zip(calls, seconds, strict=True):
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken[1:]) for taken in seconds]


def bisection(target: Tensor, control: Tensor, keep: int, level: float, steps: int = 40) -> Tensor:
    """The paper's search: double `lambda+` from 1 until the control is satisfied, then halve the interval."""

    def selected(weight: float) -> Tensor:
        return torch.topk(torch.add(target, control, alpha=weight), keep, sorted=False).indices

    def reached(weight: float) -> bool:
        return float(control[selected(weight)].sum(dtype=torch.float64)) >= level

    low, high = 0.0, 1.0
    while not reached(high):
        low, high = high, 2.0 * high
    for _ in range(steps):
        middle = (low + high) / 2.0
        low, high = (low, middle) if reached(middle) else (middle, high)
    return selected(high)


def highs(scores: list[Tensor], keep: int, kappa: Sequence[float]) -> float:
    """Seconds of the better of HiGHS' simplex and interior point, each within a time limit."""
    matrix = np.stack([score.double().numpy() for score in scores]) * len(scores[0])
    rows = np.concatenate([-matrix[1:], np.ones((1, matrix.shape[1]))])
    right = [*(-level * len(scores[0]) for level in kappa), keep]
    best = 2.0 * HIGHS_SECONDS
    for method in ("highs-ds", "highs-ipm"):
        start = time.perf_counter()
        linprog(-matrix[0], rows, right, bounds=(0, 1), method=method, options={"time_limit": HIGHS_SECONDS})
        best = min(best, time.perf_counter() - start)
    return best


def peak_memory(call: Callable[[], Any]) -> int:
    """Bytes of memory that `call` needs at its peak beyond what is held before it (Linux)."""
    ctypes.CDLL(None).malloc_trim(0)  # else memory that earlier calls freed would serve this one unseen
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = resident("VmRSS")
    call()
    return resident("VmHWM") - before


def resident(field: str) -> int:
    """Bytes of this process in a field of `/proc/self/status`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def measure(dims: Sequence[int], source: Source = synthetic) -> Measures:
    """Measure scores of the lengths `dims` from `source(count, d)`, at 95% sparsity and alpha 0.5."""
    found: Measures = {}

    def record(name: str, value: float, target: float, better: str) -> None:
        found[name] = {"value": round(value, 4), "target": target, "better": better}
        print(f"{name}: {value:.3g}", file=sys.stderr, flush=True)

    costs = {}
    for d in dims:
        name = f"{d / 1e6:.3g}M"
        keep = round(0.05 * d)
        scores = source(2, d)
        kappa = relative_kappa([0.5], scores[0], scores[1:], keep)

        def one() -> None:
            solve(scores[0], scores[1:], keep, kappa)  # noqa: B023

        costs[d], selection, reading = timed(
            one,
            lambda: torch.topk(scores[0], keep),  # noqa: B023
            lambda: [score.sum() for score in scores],  # noqa: B023
            repeats=5 if d < LARGE else 3,
        )
        record(f"solve / topk, {name}", costs[d] / selection, 0.2 if d >= LARGE else 0.5, "less")
        record(f"solve / reading the scores, {name}", costs[d] / reading, 10.0, "less")
        if d <= VGG16:
            record(f"extra memory / scores, {name}", peak_memory(one) / (8 * d), 1.5, "less")
        if d == VGG16:
            (slow,) = timed(lambda: bisection(scores[0], scores[1], keep, kappa[0]), repeats=1)  # noqa: B023
            record(f"bisection / solve, {name}", slow / costs[d], 30.0, "more")
            more = source(4, d)
            levels = relative_kappa([1 / 6] * 3, more[0], more[1:], keep)
            three, again = timed(lambda: solve(more[0], more[1:], keep, levels), one)  # noqa: B023
            record(f"three controls / one, {name}", three / again, 4.0, "less")
            keeps = [round(share * d) for share in (0.2, 0.1, 0.05, 0.02, 0.01)]
            alphas = [i / 21 for i in range(1, 21)]
            start = time.perf_counter()
            masks = sum(1 for _ in path(scores[0], scores[1:], keeps, alphas))
            record(
                f"path of {masks} masks / solve, {name}",
                (time.perf_counter() - start) / costs[d],
                25.0,
                "less",
            )
    if len(dims) > 1:
        sizes, seconds = np.log(list(costs)), np.log(list(costs.values()))
        record("exponent of the cost in d", float(np.polyfit(sizes, seconds, 1)[0]), 1.05, "less")
    for d, target in ((100_000, 100.0), (1_000_000, 500.0)):
        scores = source(2, d)
        keep = round(0.05 * d)
        kappa = relative_kappa([0.5], scores[0], scores[1:], keep)
        (fast,) = timed(lambda: solve(scores[0], scores[1:], keep, kappa))  # noqa: B023
        record(f"HiGHS / solve, {d / 1e6:.3g}M", highs(scores, keep, kappa) / fast, target, "more")
    return found


def main() -> None:
    """Print the measures as a table, or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--dims", type=int, nargs="+", default=[1_000_000, VGG16, LARGE])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch; by default all cores")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = measure(options.dims, real_or_synthetic)
    show(found, f"COPS solver, {options.threads} thread(s)", as_json=options.json)


if __name__ == "__main__":
    main()
