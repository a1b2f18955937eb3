"""What the catalog answers, against brute force over the same masks."""

import base64
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as some

from jobs.errors import UserError
from service import facts
from service.catalog import Catalog, Order, Wanted
from service.masks import MaskSummary, Metric

SPARSITIES = [0.5, 0.7, 0.1 + 0.2 + 0.4, 0.9, 0.95]  # the third is the second, but for rounding
KEYS = [(digit * 32, recipe) for digit in "0123456789abcdef" for recipe in "rs"]
ACCURACIES = [0.25, 0.5, 0.75, 0.9]


@some.composite
def summaries(draw: some.DrawFn) -> list[MaskSummary]:
    keys = some.sampled_from(KEYS)
    return [
        _mask(draw, *key)
        for key in draw(some.lists(keys, min_size=draw(some.sampled_from([0, 8, 16])), max_size=30, unique=True))
    ]


def _mask(draw: some.DrawFn, id_: str, recipe: str) -> MaskSummary:
    target = draw(some.sampled_from([["snip"], ["snip", "synflow"]]))
    controls = draw(some.sampled_from([[], ["grasp"], ["grasp", "l1_filter"]]))
    confirmations = draw(some.integers(0, 3))
    accuracy = some.sampled_from(ACCURACIES)
    return MaskSummary(
        id=id_,
        model=draw(some.sampled_from(["convnet", "mlp"])),
        data=draw(some.sampled_from(["digits", "scans"])),
        method=f"{'+'.join(target)}|{','.join(controls)}",
        target=dict.fromkeys(target, 1 / len(target)),
        controls=controls,
        alpha=dict.fromkeys(controls, 0.5),
        sparsity=draw(some.sampled_from(SPARSITIES)),
        removed=0.9,
        seed=draw(some.integers(0, 1)),
        layout=draw(some.sampled_from(["unstructured", "2:4"])),
        rounds=1,
        samples=draw(some.sampled_from([None, None, 32])),
        recipe=recipe,
        confirmations=confirmations,
        validation_accuracy=draw(accuracy),
        validation_error=None,
        test_accuracy=draw(accuracy | some.none()) if confirmations else None,
        flops_share=draw(accuracy | some.none()),
        dead_share=None,
        emptied_layers=0,
        gradient_norm_ratio=None,
        sweeps=["1"],
        file_run="2",
        file_sha256=None,
        weights_run=None,
        weights_sha256=None,
    )


WISHES: dict[str, list[Any]] = {
    "model": ["convnet", "nowhere"],
    "data": ["digits"],
    "sparsity_min": SPARSITIES,
    "sparsity_max": SPARSITIES,
    "target": ["snip", "snip+synflow"],
    "control": ["grasp", "filter", "l1_filter"],
    "layout": ["2:4"],
    "seed": [0],
    "samples": [32],
    "min_confirmations": [2],
}


@some.composite
def wishes(draw: some.DrawFn) -> Wanted:
    """A few at a time: of many, nothing would be left to tell apart."""
    named = draw(some.sampled_from([[], ["model", "data"]]))
    fields = draw(some.lists(some.sampled_from(sorted(WISHES)), max_size=2, unique=True))
    given = {field: draw(some.sampled_from(WISHES[field])) for field in {*named, *fields}}
    return Wanted(
        **given,
        sparsity=draw(some.sampled_from([None, *SPARSITIES, 0.6, 0.99])),
        tolerance=draw(some.sampled_from([0.0, 0.1, 0.2, 0.3])),
        metric=draw(some.sampled_from(get_args(Metric))),
    )


def level(sparsity: float) -> int:
    return round(sparsity * 1e9)


def fits(mask: MaskSummary, wanted: Wanted) -> bool:
    """All but `sparsity` and the metric."""
    return (
        wanted.model in (None, mask.model)
        and wanted.data in (None, mask.data)
        and (wanted.sparsity_min is None or level(mask.sparsity) >= level(wanted.sparsity_min))
        and (wanted.sparsity_max is None or level(mask.sparsity) <= level(wanted.sparsity_max))
        and wanted.target in (None, "+".join(mask.target))
        and (wanted.control is None or wanted.control in mask.controls)
        and wanted.layout in (None, mask.layout)
        and wanted.seed in (None, mask.seed)
        and wanted.samples == mask.samples
        and mask.confirmations >= wanted.min_confirmations
    )


def candidates(masks: list[MaskSummary], wanted: Wanted) -> list[MaskSummary]:
    return [mask for mask in masks if fits(mask, wanted) and getattr(mask, wanted.metric) is not None]


def winner(masks: list[MaskSummary], metric: Metric) -> MaskSummary | None:
    return max(
        masks, key=lambda mask: (mask.confirmations > 0, getattr(mask, metric), mask.id, mask.recipe), default=None
    )


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    with Catalog(tmp_path_factory.mktemp("catalog") / "catalog.db") as catalog:
        yield catalog


def fill(catalog: Catalog, masks: list[MaskSummary]) -> None:
    with catalog.file.writing() as connection:
        connection.execute("DELETE FROM masks")
        facts.put(connection, masks)


@given(masks=summaries(), wanted=wishes())
def test_the_best(catalog: Catalog, masks: list[MaskSummary], wanted: Wanted) -> None:
    fill(catalog, masks)
    found = candidates(masks, wanted)
    if wanted.sparsity is not None:
        low, high = level(wanted.sparsity), level(wanted.sparsity + wanted.tolerance)
        nearest = min((level(mask.sparsity) for mask in found if low <= level(mask.sparsity) <= high), default=-1)
        found = [mask for mask in found if level(mask.sparsity) == nearest]
    assert catalog.best(wanted) == winner(found, wanted.metric)


@given(masks=summaries(), wanted=wishes(), order=some.sampled_from(get_args(Order)), limit=some.integers(1, 5))
def test_all_pages_together(
    catalog: Catalog, masks: list[MaskSummary], wanted: Wanted, order: Order, limit: int
) -> None:
    fill(catalog, masks)

    def position(mask: MaskSummary) -> tuple[float, str, str]:
        value = getattr(mask, order.removeprefix("-"))
        return -1 if value is None else value, mask.id, mask.recipe

    expected = sorted((mask for mask in masks if fits(mask, wanted)), key=position, reverse=order[0] == "-")
    found: list[MaskSummary] = []
    cursor, pages = None, 0
    while pages == 0 or cursor is not None:
        page, cursor = catalog.page(wanted, order, cursor, limit)
        assert len(page) == limit or cursor is None
        assert page or not expected
        found, pages = found + page, pages + 1
    assert found == expected


@given(masks=summaries(), wanted=wishes())
def test_the_frontier(catalog: Catalog, masks: list[MaskSummary], wanted: Wanted) -> None:
    fill(catalog, masks)
    found = candidates(masks, wanted)
    levels = sorted({level(mask.sparsity) for mask in found})
    bests = [winner([mask for mask in found if level(mask.sparsity) == one], wanted.metric) for one in levels]
    assert [round(sparsity, 9) for sparsity in catalog.sparsities(wanted)] == [one / 1e9 for one in levels]

    def beaten(mask: MaskSummary | None) -> bool:
        """Another is sparser and as good, or better."""
        assert mask is not None
        value, here = getattr(mask, wanted.metric), level(mask.sparsity)
        return any(
            other is not None and level(other.sparsity) > here and getattr(other, wanted.metric) >= value
            for other in bests
        )

    assert catalog.frontier(wanted) == [mask for mask in bests if not beaten(mask)]


@given(masks=summaries())
def test_one_mask_and_all_names(catalog: Catalog, masks: list[MaskSummary]) -> None:
    fill(catalog, masks)
    for mask in masks:
        same = [other for other in masks if other.id == mask.id]
        assert catalog.get(mask.id) == winner(same, "validation_accuracy")
        text = catalog.get_json(mask.id)
        assert text is not None
        assert json.loads(text) in [asdict(other) for other in same]
    assert catalog.get("f" * 31) is None
    names = catalog.names()
    assert names.models == sorted({mask.model for mask in masks})
    assert names.data == sorted({mask.data for mask in masks})
    assert names.methods == sorted({mask.method for mask in masks})
    assert names.layouts == sorted({mask.layout for mask in masks})


def test_a_page_is_no_longer_than_allowed(catalog: Catalog) -> None:
    fill(catalog, [])
    assert catalog.page(Wanted(), limit=10**9) == ([], None)


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "€",
        "0" * 5000,
        encoded([]),
        encoded({}),
        encoded(["-sparsity", 0.5, "a", "r"]),
        encoded(["sparsity", None, "a", "r"]),
        encoded(["sparsity", "0.5", "a", "r"]),
        encoded(["sparsity", float("nan"), "a", "r"]),
        encoded(["sparsity", 10**400, "a", "r"]),
        encoded(["sparsity", 0.5, 1, "r"]),
        encoded(["sparsity", 0.5, "\ud800", "r"]),
        encoded(["sparsity", 0.5, "a", "r", "more"]),
        base64.b64encode(b"[" * 100_000).decode(),
    ],
)
def test_a_cursor_that_is_none_of_ours_is_one_line(catalog: Catalog, cursor: str) -> None:
    with pytest.raises(UserError, match="cursor = ") as caught:
        catalog.page(Wanted(), "sparsity", cursor)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
