"""Anybody's network: 'package.module:factory' or 'path/to/file.py:factory' is imported and called."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from tensorpress.core.binary import crc32c
from tensorpress.core.errors import InputError


def build(spec: str, weights: Path | None = None) -> tuple[nn.Module, bool]:
    """The network that `spec` names, and whether its factory took the path of the weights.

    It is handed that path if its first positional parameter has no default, or the default None or a string or path;
    a default of another kind (`num_classes=10`, `pretrained=False`) means something else. InputError, in one line,
    where the module or the factory is not there, raises, or returns no nn.Module.
    """
    place, colon, name = spec.rpartition(":")
    if not (place and colon and name):
        raise InputError(f"model {spec!r} is not of the form 'package.module:factory' or 'path/to/file.py:factory'")
    is_file = place.endswith(".py")
    with importable(Path(place).resolve().parent if is_file else Path.cwd()):
        try:
            module = _load_file(Path(place)) if is_file else importlib.import_module(place)
        except InputError:
            raise
        except (Exception, SystemExit) as error:  # a user's file may raise anything
            raise InputError(f"cannot import {place!r} of model {spec!r}: {reason(error)}") from error
        make = _find(module, name, spec)
        takes, needs = _takes_path(make)
        if needs and weights is None:
            raise InputError(f"factory {spec!r} wants the path of its weights, and no weights are given")
        try:
            model = make(str(weights)) if takes and weights is not None else make()
        except (Exception, SystemExit) as error:
            raise InputError(f"factory {spec!r} raised {reason(error)}") from error
    if not isinstance(model, nn.Module):
        raise InputError(f"factory {spec!r} returned {type(model).__name__}, not a torch.nn.Module")
    return model, takes and weights is not None


def source(spec: str) -> str:
    """The file whose code `build(spec)` runs, found without running any of it; the module's name where no file is found.

    What that file imports runs as well, and the packages that it lies in before it.
    """
    place = spec.rpartition(":")[0]
    if place.endswith(".py"):
        return str(Path(place).resolve())
    if not all(part.isidentifier() for part in place.split(".")):
        return place  # no module's name: `build` will say so
    with importable(Path.cwd()):
        path, found = None, None
        for name in itertools.accumulate(place.split("."), "{}.{}".format):
            if name in sys.modules:
                found = getattr(sys.modules[name], "__spec__", None)
            else:
                found = next(filter(None, (finder.find_spec(name, path) for finder in sys.meta_path)), None)
            if found is None:
                return place
            path = found.submodule_search_locations
    return str(found.origin) if found is not None and found.has_location else place


def reason(error: BaseException, limit: int = 200) -> str:
    """Type and message of an exception in one line of at most about `limit` characters."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:limit]}{'…' if len(text) > limit else ''}" if text else type(error).__name__


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Modules beside the network's file can be imported meanwhile, as they could if Python ran that file."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    name = f"tensorpress_model_{path.stem}_{crc32c(str(path.resolve()).encode()):08x}"
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise InputError(f"{path}: Python cannot import it")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # dataclasses look their own module up there
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _find(module: ModuleType, name: str, spec: str) -> Callable[..., Any]:
    make = getattr(module, name, None)
    if callable(make):
        return make  # type: ignore[no-any-return]
    near = difflib.get_close_matches(name, [k for k, v in vars(module).items() if callable(v)], 1)
    what = "is not callable" if hasattr(module, name) else "is not there"
    raise InputError(f"factory {name!r} of model {spec!r} {what}" + (f"; did you mean {near[0]!r}?" if near else ""))


def _takes_path(make: Callable[..., Any]) -> tuple[bool, bool]:
    """Whether the path of the weights may be its first argument, and whether it must be."""
    try:
        parameters = list(inspect.signature(make).parameters.values())
    except (TypeError, ValueError):  # builtins may have no signature
        return False, False
    if not parameters or parameters[0].kind not in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD):
        return False, False
    default = parameters[0].default
    needs = default is inspect.Parameter.empty
    return needs or default is None or isinstance(default, (str, Path)), needs
