"""Every key visible: the explained file reads back, the schema says yes and no where reading a file does."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from jobs.errors import UserError
from jobs.explain import explain, schema
from jobs.spec import Section, Spec
from tests.conftest import ROOT

SCHEMA = json.loads(schema())
SWEEPS = sorted((ROOT / "jobs" / "sweeps").glob("*.yaml"))
FULL: dict[str, Any] = {
    "name": "full",
    "workloads": [{"model": {"name": "resnet20", "options": {"width": 0.5}}, "data": "digits"}],
    "grid": {
        "pairs": [{"target": ["snip", "synflow"], "controls": ["grasp", "magnitude"]}],
        "sparsities": [0.9],
        "layouts": ["2:4", "filter"],
    },
    "ablations": ["shuffle"],
    "samples": 100,
}
DAMAGE: list[Any] = [{"unexpected": 1}, "text?", -(10**9), 10**30, float("nan"), [], [[]], [None], None, True, 0.5]


def _keys(section: type[Section], path: str = "") -> Iterator[tuple[str, Any]]:
    """Every key below a section: its path, and what pydantic knows of it."""
    for name, field in section.model_fields.items():
        yield f"{path}{name}", field
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from _keys(field.annotation, f"{path}{name}.")


def places(tree: Any, path: str = "") -> Iterator[str]:
    """Every place in a sweep file, as `grid.pairs[0].target`."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for name, value in items:
        inner = f"{path}[{name}]" if isinstance(name, int) else f"{path}.{name}".lstrip(".")
        yield inner
        yield from places(value, inner)


def steps(path: str) -> list[str | int]:
    """`a.b[0]` -> a, b, 0."""
    parts = path.replace("[", ".").split(".") if path else []
    return [int(part[:-1]) if part.endswith("]") else part for part in parts]


def at(tree: Any, path: str, up: int = 0) -> Any:
    """What stands at a place, or `up` above it."""
    way = steps(path)
    for part in way[: len(way) - up]:
        tree = tree[part]
    return tree


def damaged(tree: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of a tree with another value, or another key, at one place."""
    copy = json.loads(json.dumps(tree))
    *_, last = steps(path)
    at(copy, path, up=1)[last] = value
    return dict(copy)


def loaded(tree: dict[str, Any], folder: Path) -> Spec:
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump(tree))
    return Spec.load(file)


KEYS = list(_keys(Spec))
WHOLE = Spec.model_validate(FULL).model_dump(mode="json")


@pytest.mark.parametrize(("path", "field"), KEYS)
def test_every_key_says_what_it_is(path: str, field: Any) -> None:
    section = isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    assert field.annotation.__doc__ if section else field.description


@pytest.mark.parametrize("spec", [None, *map(Spec.load, SWEEPS), Spec.model_validate(FULL)])
def test_an_explained_file_reads_back(spec: Spec | None, tmp_path: Path) -> None:
    text = explain(spec)
    (tmp_path / "sweep.yaml").write_text(text)
    again = Spec.load(tmp_path / "sweep.yaml")
    assert spec is None or again == spec
    for path, _ in KEYS:
        assert f"{path.rpartition('.')[2]}:" in text
    assert all("  # " in line or line.startswith("#") for line in text.splitlines() if line)
    assert "vgg16(width=1.0)" in text
    assert 'image_folder(path, size=null, validation=0.1, seed=0, test="test", sha256=null)' in text


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.name)
def test_the_schema_takes_the_shipped_sweep_files(path: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(yaml.safe_load(path.read_text()), SCHEMA)
    jsonschema.validate(FULL, SCHEMA)


@pytest.mark.parametrize("path", list(places(WHOLE)))
def test_any_one_key_damaged_is_one_line_that_names_it(path: str, tmp_path: Path) -> None:
    """What the schema refuses, reading refuses too; never anything but one line with the key."""
    refused = 0
    validator = jsonschema.Draft202012Validator(SCHEMA)
    for value in DAMAGE:
        tree = damaged(WHOLE, path, value)
        try:
            loaded(tree, tmp_path)
        except UserError as error:
            line = str(error).removeprefix(f"{tmp_path / 'sweep.yaml'}: ")
            assert all(part in line for part in steps(path) if isinstance(part, str))
            assert "\n" not in line
            assert len(line) < 600
            refused += 1
        else:
            assert validator.is_valid(tree), value
    assert refused >= len(DAMAGE) - 5


@pytest.mark.parametrize("path", ["", *(path for path in places(WHOLE) if isinstance(at(WHOLE, path), dict))])
def test_an_unknown_key_is_named_wherever_it_stands(path: str, tmp_path: Path) -> None:
    inner = f"{path}.surprise".lstrip(".")
    with pytest.raises(UserError) as caught:
        loaded(damaged(WHOLE, inner, 1), tmp_path)
    assert f"unknown key '{inner}': known are {path.lstrip('.')}" in str(caught.value)


@pytest.mark.parametrize("path", ["name", "workloads", "grid", "grid.pairs", "grid.sparsities", "workloads[0].model"])
def test_a_missing_key_is_named(path: str, tmp_path: Path) -> None:
    tree = json.loads(json.dumps(WHOLE))
    parent, _, name = path.rpartition(".")
    del at(tree, parent)[name]
    with pytest.raises(UserError) as caught:
        loaded(tree, tmp_path)
    assert f"key '{path}' is missing" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 5, "warmup": 5}, "training: warmup = 5 should be less than epochs = 5"),
        ({"milestones": [0.5, 0.25]}, "training: milestones = [0.5, 0.25] should rise"),
        ({"schedule": "step", "milestones": [30]}, "training: milestones = [30.0] should come before epochs = 20"),
        ({"schedule": "step", "warmup": 15}, "training: milestones = [0.5, 0.75] should come after warmup = 15"),
        ({"milestones": []}, "training.milestones = []: should have at least 1"),
        ({"optimizer": "adam"}, "training.optimizer = 'adam': should be 'sgd' or 'adamw'"),
    ],
)
def test_recipes_that_cannot_be(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        loaded(FULL | {"training": changes}, tmp_path)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("layout", "words"),
    [("4:2", "0 < n < m"), (124, "in quotes"), ("blocks", "unstructured, filter, or n:m"), ("0:4", "0 < n < m")],
)
def test_layouts_that_cannot_be(layout: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        loaded(damaged(FULL, "grid.layouts[0]", layout), tmp_path)
    assert "grid.layouts[0]" in str(caught.value)
    assert words in str(caught.value)
