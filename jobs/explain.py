"""A sweep file with every key, its value, and what it is; and as a JSON schema."""

import inspect
import json
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from jobs.models import MODELS
from jobs.spec import Section, Spec
from jobs.workloads import DATA, GIVEN

COLUMN = 44  # where comments start
LEAST = {  # keys without a default
    "name": "example",
    "workloads": [{"model": "convnet", "data": "digits"}],
    "grid": {"pairs": [{"target": "snip", "controls": ["grasp"]}], "sparsities": [0.9]},
}


def explain(spec: Spec | None = None) -> str:
    """A sweep file in full: YAML that `Spec.load` reads, with a comment for every key.

    Args:
        spec: whose values are shown; by default a small example, with all defaults.
    """
    lines = list(_section(spec or Spec.model_validate(LEAST)))
    for title, known in (("Models", MODELS), ("Data sets", DATA)):
        lines += ["", f"# {title}; others by import path, package.module:attribute"]
        lines += [f"#   {_signature(name, function)}: {summary(function)}" for name, function in known.items()]
    return "\n".join(lines) + "\n"


def schema() -> str:
    """The JSON schema of a sweep file, for editors and other programs."""
    tree = Spec.model_json_schema()
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **tree}, indent=2)


def _section(section: Section, indent: str = "") -> Iterator[str]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            yield _line(f"{indent}{name}:", summary(type(value)))
            yield from _section(value, f"{indent}  ")
            continue
        plain = section.model_dump(mode="json")[name]
        text = yaml.safe_dump(plain, default_flow_style=True, width=10_000, sort_keys=False).removesuffix("...\n")
        yield _line(f"{indent}{name}: {text.strip()}", _comment(field, value))


def _line(text: str, comment: str) -> str:
    return f"{text:{COLUMN}}  # {comment}"


def _comment(field: FieldInfo, value: Any) -> str:
    """Description, choices, and the default where the value is another."""
    parts = [field.description or ""]
    choices = list(_choices(field.annotation))
    if choices:
        parts.append(f"one of {', '.join(map(str, choices))}")
    if field.is_required():
        parts.append("required")
    elif value != field.default:
        parts.append(f"default {json.dumps(field.default)}")
    return "; ".join(part for part in parts if part)


def _choices(annotation: Any) -> Iterator[Any]:
    """Values of a Literal, wherever in a type."""
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
        return
    for inner in get_args(annotation):
        yield from _choices(inner)


def _signature(name: str, function: Any) -> str:
    options = [
        parameter.name if parameter.default is parameter.empty else f"{parameter.name}={json.dumps(parameter.default)}"
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name not in GIVEN
    ]
    return f"{name}({', '.join(options)})" if options else name


def summary(thing: Any) -> str:
    """The first sentence of a docstring."""
    return inspect.cleandoc(thing.__doc__ or "").split("\n\n")[0].replace("\n", " ")
