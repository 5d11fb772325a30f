"""A network as a row of units (residual blocks, layers), so that one can be worked on while the rest runs in float.

    inputs ─► units before: what they gave, kept ─► the unit ─► units behind: as they were ─► outputs

The network's own code runs each time; units before the one at hand only hand out what was kept of them, so skips around it
are right and cost nothing. That takes memory for the outputs of all units on all inputs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tensorpress.core.errors import InputError
from tensorpress.pytorch.lockstep import Inputs, unfused

MOST = 4  # matrices of a unit: a residual block with its shortcut, or a layer of a transformer
BATCH = 64


class _Reached(Exception):
    def __init__(self, x: Tensor) -> None:
        self.x = x


class Units:
    """`names` in the order in which they run: the largest modules with at most `most` of `matrices` that run once and map one tensor to one tensor.

    `network` is a copy without gradients, in eval mode. InputError where the network does not run on `inputs` (batch first).
    """

    def __init__(self, model: nn.Module, inputs: Inputs, matrices: Collection[str], most: int = MOST) -> None:
        self.inputs = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
        self.network = copy.deepcopy(model).eval().requires_grad_(False)
        ran, once = self._calls()
        self.names = [name for name in ran if name in self._chosen("", matrices, most, once)]
        self.modules = [self.network.get_submodule(name) for name in self.names]
        self._plain = [module.forward for module in self.modules]
        self._kept: list[Tensor] = []
        self._at, self._rows, self._float, self._given = -1, slice(None), True, None  # type: tuple[int, Any, bool, Tensor | None]
        for number, module in enumerate(self.modules):
            module.forward = self._entrance(number)  # type: ignore[method-assign]

    def _calls(self) -> tuple[list[str], set[str]]:
        """Modules in the order in which they begin, and those that suit."""
        order: list[str] = []
        suits: dict[str, bool] = {}

        def hook(name: str) -> Callable[..., None]:
            def seen(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
                suits[name] = name not in suits and len(args) == 1 and isinstance(args[0], Tensor) and args[0].is_floating_point() and isinstance(output, Tensor)

            return seen

        handles = []
        for name, module in self.network.named_modules():
            handles += [module.register_forward_hook(hook(name), with_kwargs=True), module.register_forward_pre_hook(lambda m, a, n=name: order.append(n))]
        try:
            with torch.no_grad(), unfused():
                self.network(*(x[:2] for x in self.inputs))
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise InputError(f"the network does not run on the calibration inputs: {type(error).__name__}: {str(error).splitlines()[0][:200]}") from error
        finally:
            for handle in handles:
                handle.remove()
        return list(dict.fromkeys(order)), {name for name, fits in suits.items() if fits}

    def _chosen(self, path: str, matrices: Collection[str], most: int, once: set[str]) -> set[str]:
        found: set[str] = set()
        for name, module in self.network.get_submodule(path).named_children():
            full = f"{path}.{name}" if path else name
            held = sum(m.startswith(full + ".") for m in matrices)
            if held and full in once and (held <= most or not any(True for _ in module.children())):
                found.add(full)
            elif held:
                found |= self._chosen(full, matrices, most, once)
        return found

    def _entrance(self, number: int) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            if number == self._at:
                if self._given is None:
                    raise _Reached(x)
                return self._given
            if number < self._at and not self._float:
                return self._kept[number][self._rows]
            return self._plain[number](x)  # type: ignore[no-any-return]

        return forward

    def _run(self, number: int, rows: Any, in_float: bool, given: Tensor | None = None) -> Tensor:
        self._at, self._rows, self._float, self._given = number, rows, in_float, given
        with unfused():
            found = self.network(*(x[rows] for x in self.inputs))
        return getattr(found, "logits", found)  # type: ignore[no-any-return]

    def _parts(self) -> Iterator[slice]:
        count = len(self.inputs[0])
        return (slice(i, i + BATCH) for i in range(0, count, BATCH))

    @torch.no_grad()
    def outputs(self) -> Tensor:
        """Of the original network, on all inputs."""
        return torch.cat([self._run(-1, rows, True) for rows in self._parts()])

    @torch.no_grad()
    def fed(self, number: int, in_float: bool) -> Tensor:
        """What unit `number` is fed on all inputs: by the original units before it, or by what was kept of them."""
        found = []
        for rows in self._parts():
            try:
                self._run(number, rows, in_float)
            except _Reached as reached:
                found.append(reached.x)
        return torch.cat(found)

    def rest(self, number: int, y: Tensor, rows: Any) -> Tensor:
        """The network's outputs where unit `number` gives `y` on the inputs `rows`: those before it as kept, those behind it as they were; with gradients to `y`."""
        return self._run(number, rows, False, y)

    @torch.no_grad()
    def through(self, number: int, x: Tensor, unit: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """What `unit`, or the original one, makes of `x`."""
        with unfused():
            return torch.cat([(unit or self._plain[number])(part) for part in x.split(BATCH)])

    def copy(self, number: int) -> nn.Module:
        """The original unit, by itself."""
        entrance = self.modules[number].__dict__.pop("forward")
        try:
            return copy.deepcopy(self.modules[number])
        finally:
            self.modules[number].forward = entrance  # type: ignore[method-assign]

    def keep(self, y: Tensor) -> None:
        """What the next unit gives from here on."""
        self._kept.append(y)
