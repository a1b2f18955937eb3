import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cops import score
from cops.network import layers, rows
from cops.sensitivity import Row, Sensitivity, sensitivity
from tests.cops.networks import convnet, images, unchanged


def test_rows_are_evaluations_of_one_layer_pruned_alone() -> None:
    model = convnet().train()
    seen: list[nn.Module] = []

    def evaluate(network: nn.Module) -> float:
        assert not network.training
        seen.append(copy.deepcopy(network))
        return float(len(seen))

    with unchanged(model):
        table = sensitivity(model, [], evaluate=evaluate, sparsities=(0.3, 0.6))
    assert table.dense == 1.0
    names = ["0.weight", "4.weight", "9.weight"]
    assert [(row.layer, row.sparsity, row.accuracy) for row in table.rows] == [
        (name, sparsity, 2.0 + 2 * k + j) for k, name in enumerate(names) for j, sparsity in enumerate((0.3, 0.6))
    ]
    for row, network in zip(table.rows, seen[1:], strict=True):
        for name, (layer, *_) in layers(network).items():
            filters = rows(layer.weight.detach(), layer)
            original = rows(model.get_parameter(name).detach(), layer)
            gone = ~filters.any(1)
            if name != row.layer:
                assert torch.equal(filters, original)
                continue
            assert float(gone.double().mean()) == pytest.approx(row.removed)
            assert row.removed >= row.sparsity - 0.5 / filters.numel()
            norms = original.abs().sum(1)
            assert gone.any()
            assert not gone.any() or gone.all() or norms[gone].max() <= norms[~gone].min()


def test_accuracy_is_measured_on_batches_as_well() -> None:
    model = convnet()
    batches = [images(20, 2, 8, 8, seed=seed) for seed in (0, 1)]
    table = sensitivity(model, batches, evaluate=batches, target="snip", layout="unstructured", sparsities=[0.5])
    with torch.no_grad():
        right = sum(int((model.eval()(x).argmax(1) == y).sum()) for x, y in batches)
    assert table.dense == right / 40
    assert all(0 <= row.accuracy <= 1 and row.removed == 0.5 for row in table.rows)


def test_entropy_ranks_filters_with_its_options() -> None:
    model = convnet()
    batches = [images(30, 2, 8, 8)]
    worth = score("entropy_filter", model, batches, bins=4)["0.weight"][:, 0, 0, 0]
    pruned: list[list[bool]] = []

    def evaluate(network: nn.Module) -> float:
        pruned.append(network.get_parameter("0.weight").flatten(1).any(1).tolist())
        return 0.0

    sensitivity(
        model,
        batches,
        evaluate=evaluate,
        target="entropy_filter",
        sparsities=[0.25],
        score_options={"bins": 4},
    )
    assert pruned[1] == (worth > worth.min()).tolist()


def test_the_table_reads_as_text() -> None:
    table = Sensitivity(0.9, (Row("a", 0.5, 0.5, 0.8), Row("a", 0.9, 0.88, 0.25), Row("features.b", 0.5, 0.5, 0.7)))
    assert str(table).splitlines() == [
        "layer       50.00%  90.00%",
        "a           0.8000  0.2500",
        "features.b  0.7000",
        "dense       0.9000",
    ]


def test_the_figure_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = tuple(Row(f"layer{k}", s, s, 0.9 - 0.05 * k * s) for k in range(5) for s in (0.2, 0.5, 0.9))
    figure = Sensitivity(0.9, rows).figure()
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert np.asarray(lines["layer3"].get_xdata()) == pytest.approx([0, 20, 50, 90])
    assert np.asarray(lines["layer3"].get_ydata()) == pytest.approx([0.9, 0.87, 0.825, 0.765])


def test_without_matplotlib_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'cops-sweep\[plots\]'"):
        Sensitivity(0.9, (Row("a", 0.5, 0.5, 0.8),)).figure()


def test_bad_input_is_refused_and_nothing_changed() -> None:
    model = convnet().train()
    for options, message in (
        ({"sparsities": []}, "sparsities is empty"),
        ({"sparsities": [1.5]}, "sparsity=1.5"),
        ({"evaluate": []}, "evaluate is empty"),
        ({"target": "l2"}, "unknown score 'l2'"),
        ({"layout": "row"}, "unknown layout 'row'"),
    ):
        with unchanged(model), pytest.raises(ValueError, match=message):
            sensitivity(model, [], **({"evaluate": lambda _: 0.0} | options))
