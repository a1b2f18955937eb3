"""What several initialisations say together, against numbers worked out by hand."""

from statistics import stdev

import pytest
from rich.console import Console

from jobs.initialisations import COPS, SINGLE, comparisons, tables
from jobs.plan import Cell, Trial
from jobs.report import Standing


def standing(method: str, seed: int, validation: float, test: float | None, sparsity: float = 0.9) -> Standing:
    target, _, control = method.partition("|")
    cell = Cell(
        "convnet",
        "digits",
        (target,) if target != "dense" else (),
        (control,) if control else (),
        sparsity if target != "dense" else 0.0,
        seed,
    )
    trial = Trial(cell, (1.0,) * len(cell.target), (0.5,) * len(cell.controls))
    return Standing(cell, trial, 2, test is not None, validation, 0.01, test, False, {})


FOUND = [
    standing("snip|grasp", 0, 0.90, 0.80),
    standing("grasp|snip", 0, 0.91, 0.70),  # the best by validation, whatever the test says
    standing("snip|grasp", 1, 0.92, 0.84),
    standing("grasp|snip", 1, 0.50, 0.99),
    standing("snip", 0, 0.80, 0.68),
    standing("snip", 1, 0.70, 0.80),
    standing("grasp", 0, 0.60, 0.90),
    standing("random", 0, 0.99, 0.10),  # no score: never the best single one
    standing("random", 1, 0.99, 0.20),
    standing("dense", 0, 0.99, 0.95),
    standing("dense", 1, 0.99, 0.97),
]


def test_means_are_of_what_validation_chose_in_each_initialisation() -> None:
    means, _ = comparisons(FOUND)
    expected = {COPS: [0.70, 0.84], SINGLE: [0.68, 0.80], "snip": [0.68, 0.80], "grasp|snip": [0.70, 0.99]}
    for name, values in expected.items():
        found = means.rows[name][0.9]
        assert found is not None
        assert found.value == pytest.approx(sum(values) / 2)
        assert found.error == pytest.approx(stdev(values) / 2**0.5)
    assert means.rows["grasp"][0.9] is not None
    assert means.rows["grasp"][0.9].count == 1
    assert means.text("grasp", 0.9) == "90.0 (of 1)"
    assert means.text("dense", 0.9) == "96.0 ±1.0"


def test_differences_are_paired_by_initialisation() -> None:
    _, differences = comparisons(FOUND)
    assert set(differences.rows) == {SINGLE, "snip", "grasp", "random", "dense"}
    assert differences.text("snip", 0.9) == "+3.0 ±1.0"
    assert differences.clear("snip", 0.9)
    assert differences.text("grasp", 0.9) == "-20.0 (of 1)"  # in the one initialisation that has both
    assert not differences.clear("grasp", 0.9)


def test_unconfirmed_standings_say_nothing() -> None:
    lost = [standing("snip|grasp", seed, 0.99, None) for seed in (0, 1)]
    (means,) = comparisons([*lost, *(one for one in FOUND if not one.cell.tunable)])
    assert COPS not in means.rows


def test_one_initialisation_is_not_compared() -> None:
    assert comparisons([one for one in FOUND if one.cell.seed == 0]) == []


def test_each_sparsity_has_a_column() -> None:
    console = Console(width=100)
    more = [standing("snip|grasp", seed, 0.5, 0.5, 0.95) for seed in (0, 1)]
    with console.capture() as capture:
        for table in tables([*FOUND, *more]):
            console.print(table)
    assert "initialisations" in capture.get()
    lines = [line.split("  ") for line in capture.get().splitlines() if line.startswith("  best COPS mask ")]
    assert [[word.strip() for word in line if word.strip()][1:] for line in lines] == [["77.0 ±7.0", "50.0 ±0.0"]]
