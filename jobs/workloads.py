"""Models and data sets, by the names that sweep files use: shipped ones, or `package.module:attribute`.

Both may have options: `resnet20(width=0.5)` is what this package writes where a sweep file has
`{name: resnet20, options: {width: 0.5}}`, and reads as well.
"""

import ast
import importlib
import inspect
import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    JsonValue,
    ValidationError,
    create_model,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from torch import nn

from cops.network import untouched
from jobs import downloads
from jobs.data import Dataset, Samples, digits
from jobs.downloads import SIZES, outline
from jobs.errors import UserError, one_line, unknown
from jobs.images import image_folder, look
from jobs.models import MODELS

DATA: dict[str, Callable[..., Dataset]] = {
    "digits": digits,
    **{name: getattr(downloads, name) for name in SIZES},
    "image_folder": image_folder,
}
IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
GIVEN = ("shape", "classes", "num_classes")  # what a model is given by its data


class Reference(BaseModel):
    """A model or data set by name, with options."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    what: ClassVar[str]
    shipped: ClassVar[Mapping[str, Callable[..., Any]]]

    name: Annotated[str, Field(description="a shipped one, or an import path, package.module:attribute")]
    options: Annotated[dict[str, JsonValue], Field(description="keyword arguments of it")] = {}

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return _parsed(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.name in self.shipped:
            _checked(self.shipped[self.name], self.options, f"{self.what} {self.name}")
        elif not IMPORT_PATH.fullmatch(self.name):
            raise ValueError(
                f"{unknown(self.what, self.name, tuple(self.shipped))}, and import paths, package.module:attribute"
            )
        return self

    def __str__(self) -> str:
        """`resnet20(width=0.5)`: one text for one thing, so that names and keys can be made of it."""
        options = dict(sorted(self.options.items()))
        if self.name in self.shipped:  # what stands at its default decides nothing
            defaults = inspect.signature(self.shipped[self.name]).parameters
            options = {name: value for name, value in options.items() if value != defaults[name].default}
        text = ", ".join(f"{name}={json.dumps(value, sort_keys=True)}" for name, value in options.items())
        text = text.replace("'", r"\u0027")  # MLflow's filters quote with it, and know no escape
        return f"{self.name}({text})" if text else self.name

    @model_serializer
    def _to_text(self) -> str:
        return str(self)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"type": "string", "examples": list(cls.shipped)}, handler(schema)]}

    def find(self) -> Callable[..., Any]:
        """The function or class that is named; imports it.

        Raises:
            UserError: the import fails, there is no such attribute, or it does not take the options.
        """
        if self.name in self.shipped:
            return self.shipped[self.name]
        where = f"{self.what} '{self.name}'"
        path, _, attribute = self.name.partition(":")
        try:
            found: Any = importlib.import_module(path)
        except Exception as error:  # a module may raise anything
            raise UserError(f"{where}: importing {path} fails: {type(error).__name__}: {error}") from error
        for part in attribute.split("."):
            if not hasattr(found, part):
                public = [name for name in dir(found) if not name.startswith("_")]
                raise UserError(f"{where}: {unknown('attribute', part, public)}")
            found = getattr(found, part)
        if not callable(found):
            raise UserError(f"{where} is {type(found).__name__}, not something to call: name a function or a class")
        try:
            _checked(found, self.options, where)
        except ValueError as error:
            raise UserError(str(error)) from None
        call: Callable[..., Any] = found
        return call


class ModelReference(Reference):
    """A network: a function or class that is given `shape`, `classes` or `num_classes` if it has such parameters."""

    what: ClassVar[str] = "model"
    shipped: ClassVar[Mapping[str, Callable[..., Any]]] = MODELS


class DataReference(Reference):
    """A data set: a function that returns a `jobs.data.Dataset`."""

    what: ClassVar[str] = "data set"
    shipped: ClassVar[Mapping[str, Callable[..., Any]]] = DATA

    def look(self) -> None:
        """Look for the files of an image folder; download those of a public data set, unless they are there.

        Raises:
            UserError: there are none.
        """
        if self.name in SIZES:
            downloads.look(self.name)
        if self.shipped.get(self.name) is image_folder:
            options: dict[str, Any] = self.options
            look(**{name: value for name, value in options.items() if name in ("path", "test", "sha256")})


@cache
def load_data(name: str) -> Dataset:
    """A data set by its reference, such as `digits`, read once per process.

    Raises:
        UserError: it cannot be imported or read, or is no `Dataset`.
    """
    reference = DataReference.model_validate(name)
    load = reference.find()
    try:
        found = load(**reference.options)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"data set '{name}' cannot be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(found, Dataset):
        raise UserError(f"data set '{name}' gives {type(found).__name__}: it should give a jobs.data.Dataset")
    return found


def outlined(name: str) -> Dataset:
    """A data set as `load_data` gives it, or, where its sizes are known, images of those sizes without any content.

    Raises:
        UserError: as `load_data`.
    """
    reference = DataReference.model_validate(name)
    if reference.name not in SIZES:
        return load_data(name)
    defaults = inspect.signature(reference.find()).parameters
    return outline(SIZES[reference.name], float(reference.options.get("validation", defaults["validation"].default)))


def build_model(name: str, data: Dataset, seed: int) -> nn.Module:
    """A freshly initialised network by its reference; the same weights for the same seed, whatever ran before.

    Raises:
        UserError: it cannot be imported or built, or does not fit the data.
    """
    reference = ModelReference.model_validate(name)
    build = reference.find()
    given = {"shape": data.shape, "classes": data.classes, "num_classes": data.classes}
    takes = inspect.signature(build).parameters
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = build(**{key: value for key, value in given.items() if key in takes}, **reference.options)
        except UserError as error:
            raise UserError(f"model '{name}': {error}") from error
        except Exception as error:
            raise UserError(f"model '{name}' cannot be built: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"model '{name}' gives {type(model).__name__}: it should give a torch.nn.Module")
    _fits(name, model, data)
    return model


def scoring_batches(data: Dataset, batches: int, batch_size: int, seed: int) -> list[Samples]:
    """The training samples that scores see: `batches` pairs of inputs and labels, drawn by `seed`."""
    inputs, labels = data.train
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[: batches * batch_size]
    return [(data.ready(inputs[part]), labels[part]) for part in order.split(batch_size)]


def _fits(name: str, model: nn.Module, data: Dataset) -> None:
    try:
        with untouched(model), torch.no_grad():
            outputs = model.eval()(data.ready(data.train[0][:1]))
        shape = tuple(outputs.shape)
    except Exception as error:
        raise UserError(f"model '{name}' cannot take inputs of shape {data.shape}: {error}") from error
    if shape != (1, data.classes):
        raise UserError(f"model '{name}' gives outputs {shape} for one input, not {(1, data.classes)}, one per class")


def _parsed(text: str) -> dict[str, Any]:
    """Name and options of `name(option=JSON, ...)`."""
    name, bracket, _ = text.partition("(")
    if not bracket:
        return {"name": text}
    call = f"f{text[len(name) :]}"
    try:
        node = ast.parse(call, mode="eval").body
        if not isinstance(node, ast.Call) or node.args or not all(keyword.arg for keyword in node.keywords):
            raise ValueError("not name(option=value, ...)")
        values = {str(keyword.arg): ast.get_source_segment(call, keyword.value) for keyword in node.keywords}
        return {"name": name, "options": {key: json.loads(value or "") for key, value in values.items()}}
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # Python's own limits of nesting
        raise ValueError(f"should be a name, or name(option=value, ...) with values as in JSON: {error}") from None


def _checked(function: Callable[..., Any], options: Mapping[str, JsonValue], where: str) -> None:
    """Refuse options that a function does not have, or of another type than it says.

    Raises:
        ValueError: names the option.
    """
    every = inspect.signature(function).parameters
    variable = {one.kind for one in every.values()} & {inspect.Parameter.VAR_KEYWORD}
    stars = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    parameters = {name: one for name, one in every.items() if name not in GIVEN and one.kind not in stars}
    for name in options:
        if name not in parameters and not variable:
            raise ValueError(
                f"{where}: {unknown('option', name, tuple(parameters)) if parameters else 'it has no options'}"
            )
    own = function in (*MODELS.values(), *DATA.values())  # whose annotations pydantic understands
    fields: Any = {
        name: (one.annotation if own else Any, ... if one.default is one.empty else one.default)
        for name, one in parameters.items()
    }
    form = create_model("options", __config__=ConfigDict(allow_inf_nan=False, protected_namespaces=()), **fields)
    try:
        form.model_validate(options)
    except ValidationError as error:
        raise ValueError(f"{where}: {one_line(error, form)}") from None
