"""Where systems are found: every file `systems/<family>/<id>.py` with a literal `CARD`. Listing imports none of them."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from tensorpress.core.card import Card
from tensorpress.core.codec import Codec
from tensorpress.core.errors import InputError, StreamError, TensorPressError
from tensorpress.core.floats import plainly

SYSTEMS = Path(__file__).parents[1] / "systems"


def read_card(path: Path) -> Card | None:
    """The card of a system's file, from its syntax tree; None where the file has none."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and [getattr(t, "id", "") for t in node.targets] == ["CARD"]:
            return Card(**{k.arg: ast.literal_eval(k.value) for k in node.value.keywords if k.arg})
    return None


@cache
def _every() -> Mapping[str, Card]:
    found = [read_card(path) for path in sorted(SYSTEMS.glob("*/*.py"))]
    return {card.id: card for card in found if card is not None}


@cache
def cards(makes: str = "codec") -> Mapping[str, Card]:
    """Every known codec's card by id, in order of family and id; or every 'method' that chooses forms for weights."""
    return {name: card for name, card in _every().items() if card.makes == makes}


def any_card(system_id: str) -> Card:
    """The card of a codec or a method."""
    return card(system_id, _every()[system_id].makes if system_id in _every() else "codec")


def card(system_id: str, makes: str = "codec") -> Card:
    known = cards(makes)
    if system_id not in known:
        near = difflib.get_close_matches(system_id, known, 1)
        other = f" It is a {_every()[system_id].makes}." if system_id in _every() else ""
        raise InputError(f"unknown {makes} {system_id!r}" + (f"; did you mean {near[0]!r}?" if near else "") + f"{other} Known: {', '.join(known)}")
    return known[system_id]


def system(system_id: str, makes: str = "codec") -> ModuleType:
    found = card(system_id, makes)
    return importlib.import_module(f"tensorpress.systems.{found.family}.{found.id}")


def method(method_id: str, options: Mapping[str, Any] | None = None) -> Any:
    """A method for weights from its id and options. InputError names an option that it does not have."""
    module = system(method_id, "method")
    try:
        return module.build(module.Config(**_known(module, f"method {method_id!r}", options)))
    except TensorPressError:
        raise
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
        raise InputError(f"options of method {method_id!r} are not usable: {error}") from None


def _known(module: ModuleType, whose: str, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """`options` as a Config takes them. InputError for one that it does not have."""
    known = {f.name for f in dataclasses.fields(module.Config)}
    for name in options or {}:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"{whose} has no option {name!r}{hint} Options: {', '.join(f.name for f in dataclasses.fields(module.Config))}")
    return {k: tuple(v) if isinstance(v, list) else v for k, v in (options or {}).items()}


@plainly
def build(codec_id: str, params: Mapping[str, Any] | None = None, state: Mapping[str, Any] | None = None) -> Codec:
    """A codec from its id, options and shared state. InputError names an option that it does not have."""
    module = system(codec_id)
    values = _known(module, f"codec {codec_id!r}", params)
    try:
        config = module.Config(**values)
        return module.build(config, {k: bytes(v) for k, v in (state or {}).items()})  # type: ignore[no-any-return]
    except TensorPressError:
        raise
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
        raise InputError(f"options of codec {codec_id!r} are not usable: {error}") from None


NUMBERS: dict[str, Any] = {"int": int, "float": int | float}  # of JSON; true and false are neither


def suits(value: Any, annotation: str) -> bool:
    """Whether a JSON value has the type of a Config's field. Unknown annotations suit all: `build` will say what is wrong."""
    if annotation.endswith(" | None"):
        return value is None or suits(value, annotation.removesuffix(" | None"))
    if annotation.startswith("tuple["):
        inner = annotation.removeprefix("tuple[").removesuffix(", ...]")
        return isinstance(value, list) and all(suits(v, inner) for v in value)
    if annotation in NUMBERS:
        return isinstance(value, NUMBERS[annotation]) and not isinstance(value, bool)
    return isinstance(value, {"str": str, "bool": bool}.get(annotation, object))


def build_from_stream(codec_id: str, params: Mapping[str, Any], state: Mapping[str, Any]) -> Codec:
    """As `build`, for bytes from elsewhere: whatever is wrong with them is a StreamError."""
    try:
        annotations = {f.name: str(f.type) for f in dataclasses.fields(system(codec_id).Config)}
        for name, value in params.items():
            if not suits(value, annotations.get(name, "")):
                raise StreamError(f"codec {codec_id!r}: {name} is {value!r}, not {annotations[name]}")
        return build(codec_id, params, state)
    except StreamError:
        raise
    except InputError as error:
        raise StreamError(f"stream names a codec or options that cannot be used: {error}") from None
