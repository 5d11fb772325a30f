"""Taps: a function that sees, and may replace, chosen tensors in every forward pass of any module.

While taps are on, `model.forward` runs the network's own code under a torch function mode, which meets every torch
operation at its outermost name: `nn.ReLU`, `F.relu`, `torch.relu`, `Tensor.relu_` all arrive once. A stack of module
paths, kept by hooks, says whose forward an operation stands in; an operation is named by (path, call, what), where
`call` counts the operations of one name at one path within one pass. Nothing is traced or rewritten, so control flow
that depends on data, the training flag and in-place operations mean what they always mean.
"""

from __future__ import annotations

import functools
import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tensorpress.core.errors import InputError
from tensorpress.core.site import Site

Key = tuple[str, int, str]  # path, call, what
Operation = Callable[..., Any]
Visit = Callable[[Key | None, Operation, tuple[Any, ...], dict[str, Any]], Any]
TapFunction = Callable[[int, Tensor], Tensor]


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ACTIVATIONS = words(
    "relu relu6 leaky_relu prelu rrelu elu selu celu silu mish gelu hardswish hardsigmoid hardtanh sigmoid tanh softplus "
    "logsigmoid softsign tanhshrink softshrink hardshrink threshold glu clamp"
)
_COUNTED = {  # what a site is called, by the plain names of the functions that make it
    **{name: name for name in ACTIVATIONS},
    **dict.fromkeys(words("log_sigmoid"), "logsigmoid"),
    **dict.fromkeys(words("special_expit"), "sigmoid"),
    **dict.fromkeys(words("clip clamp_min"), "clamp"),
    **dict.fromkeys(words("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear bilinear"), "linear"),
    **dict.fromkeys(words("multi_head_attention_forward batch_norm"), "linear"),
    **dict.fromkeys(words("matmul rmatmul mm bmm addmm baddbmm einsum"), "matmul"),
    **dict.fromkeys(words("add iadd radd"), "add"),
    **dict.fromkeys(words("sub isub rsub subtract"), "sub"),
    **dict.fromkeys(words("mul imul rmul multiply"), "mul"),
    **dict.fromkeys(words("div idiv truediv itruediv divide"), "div"),
}


def operation_name(func: Operation) -> str:
    """The plain name of a torch function: 'add' for `torch.add` and `Tensor.add_`, 'iadd' for `Tensor.__iadd__`."""
    return str(getattr(func, "__name__", "")).strip("_")


def _argument(args: tuple[Any, ...], kwargs: Mapping[str, Any], at: int, *names: str, default: Any = None) -> Any:
    return args[at] if len(args) > at else next((kwargs[n] for n in names if n in kwargs), default)


def operation_what(func: Operation, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
    """What a site made by this operation is called; None for operations that are never counted."""
    what = _COUNTED.get(operation_name(func))
    if what == "hardtanh":
        bounds = _argument(args, kwargs, 1, "min_val", default=-1), _argument(args, kwargs, 2, "max_val", default=1)
        return "relu6" if bounds == (0, 6) else what
    if what == "clamp":  # only a clamp from zero upwards is a rectifier; others bound norms, steps and the like
        low = _argument(args, kwargs, 1, "min")
        return what if isinstance(low, (int, float)) and low == 0 else None
    return what


def writes_first(func: Operation, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether the operation overwrites its first operand."""
    name = str(getattr(func, "__name__", ""))
    if name.startswith("__"):
        return name.startswith("__i")
    if name.endswith("_") or kwargs.get("inplace"):
        return True
    code = getattr(func, "__code__", None)
    names = code.co_varnames[: code.co_argcount] if code is not None else ()
    return "inplace" in names and len(args) > names.index("inplace") and bool(args[names.index("inplace")])


def refuse_opaque(model: nn.Module) -> None:
    """InputError, with what to do, where a module hides the operations or the float values that taps need."""
    for path, module in model.named_modules():
        where = f"module {path!r}" if path else "the network"
        if hasattr(module, "_orig_mod"):
            raise InputError(f"{where} is compiled by torch.compile; attach to the original module (`._orig_mod`)")
        if getattr(module, "_compiled_call_impl", None) is not None:
            raise InputError(f"{where} was compiled in place by .compile(); attach to a copy that is not compiled")
        if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            raise InputError(f"{where} is wrapped in {type(module).__name__}; attach to the module inside (`.module`)")
        if isinstance(module, torch.jit.ScriptModule):
            raise InputError(f"{where} is a TorchScript module; attach to the Python module that it was made from")
        kind = type(module)
        if ".quantized" in kind.__module__ and kind.__module__.startswith("torch.") and hasattr(module, "_packed_params"):
            raise InputError(f"{where} is quantised ({kind.__name__}); dequantise it: feature maps are compressed from float values")
        if any(t.is_quantized for t in (*module.parameters(recurse=False), *module.buffers(recurse=False))):
            raise InputError(f"{where} holds quantised tensors; dequantise them: feature maps are compressed from float values")


class Pass:
    """One forward pass: where it stands (None: in modules that nobody asked for) and how many operations of each kind it has met."""

    def __init__(self, root: str | None) -> None:
        self.stack = [root]
        self.entered = {""}
        self.counts: Counter[tuple[str, str]] = Counter()


class _Mode(TorchFunctionMode):
    def __init__(self, visit: Visit, current: Pass) -> None:
        super().__init__()
        self.visit, self.current = visit, current

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        what = operation_what(func, args, kwargs)
        if what is None:
            return self.visit(None, func, args, kwargs)
        path = self.current.stack[-1]
        if path is None:
            return self.visit(None, func, args, kwargs)
        call = self.current.counts[path, what]
        self.current.counts[path, what] = call + 1
        return self.visit((path, call, what), func, args, kwargs)


def _within(path: str, paths: Collection[str]) -> bool:
    """Whether `path` is one of `paths` or inside of one."""
    parts = path.split(".")
    return any(".".join(parts[:n]) in paths for n in range(1, len(parts) + 1))


_made: WeakKeyDictionary[nn.Module, Counter[tuple[str, str]]] = WeakKeyDictionary()  # the most of each kind ever met in one pass


class Watched:
    """`visit` runs in place of every torch operation of every forward pass, until `remove()` or the end of the block.

    It is given the operation's key (None for operations that are not counted), the function and its arguments, and
    returns the operation's result. `begin` and `end` run before and after each pass. `paths`: of the modules whose own
    operations count, all where None; the others cost next to nothing.
    """

    def __init__(
        self,
        model: nn.Module,
        visit: Visit,
        begin: Callable[[], None] | None = None,
        end: Callable[[Pass], None] | None = None,
        paths: Collection[str] | None = None,
    ) -> None:
        refuse_opaque(model)
        self._model: nn.Module | None = model
        self._local = threading.local()  # a model that serves two threads is in two passes at once
        self._before = model.__dict__.get("forward")
        inner = model.forward
        root = "" if paths is None or "" in paths else None

        @functools.wraps(inner)
        def forward(*args: Any, **kwargs: Any) -> Any:
            if self._model is None or self._current() is not None:  # removed under an outer watch, or called by itself
                return inner(*args, **kwargs)
            current = self._local.current = Pass(root)
            try:
                if begin is not None:
                    begin()
                with _Mode(visit, current):
                    result = inner(*args, **kwargs)
            finally:
                self._local.current = None
            _made[model] = _made.get(model, Counter()) | current.counts
            if end is not None:
                end(current)
            return result

        self._handles = []
        for path, module in model.named_modules():
            if path and (root is not None or _within(path, paths or ())):  # what stands inside a module is not its own
                self._handles.append(module.register_forward_pre_hook(functools.partial(self._enter, path), prepend=True))
                self._handles.append(module.register_forward_hook(self._leave, always_call=True))
        forward.watched = self  # type: ignore[attr-defined]
        self._forward = model.__dict__["forward"] = forward

    def _current(self) -> Pass | None:
        return getattr(self._local, "current", None)

    def _enter(self, path: str, module: nn.Module, args: Any) -> None:
        current = self._current()
        if current is not None:
            current.stack.append(path)
            current.entered.add(path)

    def _leave(self, module: nn.Module, args: Any, result: Any) -> None:
        current = self._current()
        if current is not None:
            current.stack.pop()

    def remove(self) -> None:
        """Leave the model as it was. A second call does nothing."""
        model, self._model = self._model, None
        if model is None:
            return
        for handle in self._handles:
            handle.remove()
        if model.__dict__.get("forward") is self._forward:
            below = self._below()
            if below is None:
                del model.__dict__["forward"]
            else:
                model.__dict__["forward"] = below

    def _below(self) -> Any:
        """The instance's `forward` before this watch, past watches that were removed since; None: it had none."""
        watch = getattr(self._before, "watched", None)
        return watch._below() if watch is not None and watch._model is None else self._before

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.remove()


def _tap(function: TapFunction, over: TapFunction, index: int, before: bool, func: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run one operation with `function` on its result, or on its first operand where `before`; `over` where the result took an operand's place."""
    name = next(iter(kwargs)) if not args else ""
    first = kwargs[name] if name else args[0]

    def run(operand: Tensor) -> Any:
        return func(**{**kwargs, name: operand}) if name else func(operand, *args[1:], **kwargs)

    writes = writes_first(func, args, kwargs)
    if before:
        seen = function(index, first)
        if seen is first:
            return func(*args, **kwargs)
        return first.copy_(run(seen)) if writes else run(seen)
    if writes and torch.is_grad_enabled():
        # copied into the result of the operation itself, the tapped values would corrupt what it saved for its gradient
        return first.copy_(function(index, run(first.clone())))
    result = func(*args, **kwargs)
    if isinstance(result, tuple):  # attention gives (output, weights)
        return (function(index, result[0]), *result[1:])
    if not writes and kwargs.get("out") is None:
        return function(index, result)
    seen = over(index, result)
    return seen if seen is result else result.copy_(seen)


def tapped(
    model: nn.Module,
    sites: Sequence[Site],
    function: TapFunction,
    at: Sequence[str] | None = None,
    begin: Callable[[], None] | None = None,
    over: TapFunction | None = None,
) -> Watched:
    """Call `function(index, tensor) -> tensor` at every site in every forward pass and use its result from there on.

    `at[i]` is 'output' (the default) or 'input': the tensor before the activation, which is then applied to what the
    function returns; sites that are no activations have only an output. `begin` runs before each pass. `over` stands in for
    `function` where an operation wrote over its operand: it may put its values there and return the tensor. Use the result
    as a context manager, or end it by `.remove()`: the model is then as it was, also after an exception. Of two taps at
    one place, the one that was put there first has the last word.

    InputError names a site that the model does not have: at once where the path is unknown or a pass has been seen
    before (by `find_sites`, say), otherwise at the end of the first pass, where the site's module ran and did not make it.
    """
    paths = dict(model.named_modules())
    table: dict[Key, int] = {}
    for index, site in enumerate(sites):
        made = _made.get(model)
        if site.path not in paths or (made is not None and site.call >= made[site.path, site.what]):
            raise InputError(f"site {site.name} does not exist in this network ({type(model).__name__})")
        if table.setdefault((site.path, site.call, site.what), index) != index:
            raise InputError(f"site {site.name} is listed twice")
    places = list(at) if at is not None else ["output"] * len(sites)
    if len(places) != len(sites) or set(places) - {"output", "input"}:
        raise InputError(f"taps stand at 'output' or 'input', one for each of {len(sites)} sites, not {places}")
    before = [place == "input" and site.what in ACTIVATIONS for place, site in zip(places, sites)]
    checked = False

    def visit(key: Key | None, func: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        index = table.get(key) if key is not None else None
        return func(*args, **kwargs) if index is None else _tap(function, over or function, index, before[index], func, args, kwargs)

    def end(current: Pass) -> None:
        nonlocal checked
        for site in () if checked else sites:
            if site.path in current.entered and site.call >= _made[model][site.path, site.what]:
                raise InputError(f"site {site.name} does not exist in this network: its module ran and did not make it")
        checked = True

    return Watched(model, visit, begin, end, {site.path for site in sites})
