"""What a user did wrong, said in one line."""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from pydantic import BaseModel, ValidationError

SHOWN = 60  # characters of a value
JARGON = {  # pydantic's words for what a YAML file holds
    r"Input should be a valid tuple": "should be a list, [..., ...]",
    r"Input should be a valid dictionary or instance of \w+": "should hold keys and values",
    r"Tuple should": "should",
    r" after validation, not \d+": "",
    r"Input should": "should",
    r"String should match pattern .*": "should be up to 100 letters, digits, '.', '_', '-', a letter or digit first",
}


class UserError(Exception):
    """Bad input: the message names the key, the value and the remedy. Commands print it and exit with code 2."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def unknown(what: str, value: str, known: Sequence[str]) -> str:
    """One line about a name that is not one of `known`, with the nearest that is."""
    last = {name.rpartition(".")[2]: name for name in known}  # a shared prefix is no likeness
    close = get_close_matches(value.rpartition(".")[2], last, n=1)
    hint = f"did you mean '{last[close[0]]}'? " if close else ""
    return f"unknown {what} {_short(value)}: {hint}known are {', '.join(known)}"


def one_line(error: ValidationError, model: type[BaseModel]) -> str:
    """The first complaint of pydantic in one line: key, value, what is wrong."""
    # An unknown key first: where one is mistyped, the right one is missing, too.
    first, *others = sorted(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    # A list whose only item is bad is also reported as too short.
    others = [other for other in others if other["loc"] != first["loc"][: len(other["loc"])]]
    path = first["loc"]
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    more = f" (and {len(others)} more)" if others else ""
    if first["type"] == "extra_forbidden":
        return unknown("key", key, _keys(model, path[:-1])) + more
    if first["type"] == "missing":
        return f"key '{key}' is missing: add it{more}"
    message = first["msg"].removeprefix("Value error, ")
    for jargon, word in JARGON.items():
        message = re.sub(jargon, word, message)
    value = first["input"]
    shown = "" if isinstance(value, Mapping) or key == "" else f" = {_short(value)}"
    return f"{key}{shown}: {message}{more}".removeprefix(": ")


def _short(value: object) -> str:
    """A value in one line that a terminal takes."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _keys(model: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    """Full names of the keys allowed at `path` of the nested `model`."""
    prefix = ""
    for part in path:
        if isinstance(part, int):
            prefix += f"[{part}]"
            continue
        prefix += f".{part}"
        annotation = model.model_fields[part].annotation
        inner = [annotation, *getattr(annotation, "__args__", ())]
        model = next(kind for kind in inner if isinstance(kind, type) and issubclass(kind, BaseModel))
    return [f"{prefix}.{name}".lstrip(".") for name in model.model_fields]
