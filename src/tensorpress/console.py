"""The terminal shows what files say and obeys none of it: no markup, no emoji codes, control characters as one can read them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.measure import Measurement
from rich.segment import Segment

# all controls but tab and newline, marks that turn the direction of writing, and surrogates, which no terminal can be sent
HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """`text` with every character that a terminal would act upon written as an escape, such as \\x1b."""
    return HIDDEN.sub(lambda found: ascii(found[0])[1:-1], text)


def one_line(text: str) -> str:
    """`visible` text without line ends."""
    return visible(" ".join(text.split("\n")))


class Console(RichConsole):
    """Rich's console for strings that come from elsewhere: styles are given beside a text, never inside it."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, **settings)
        self.push_render_hook(_Hook())

    def print_json(self, json: str | None = None, *, data: Any = None, **settings: Any) -> None:
        """As rich does, in ASCII: JSON has escapes of its own."""
        super().print_json(json, data=data, **{"ensure_ascii": True, **settings})


class _Hook(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Shown(renderable) for renderable in renderables]


@dataclass
class _Shown:
    """Whatever is printed, after layout: rich's own controls pass, those in a text do not."""

    renderable: ConsoleRenderable

    def __rich_console__(self, console: RichConsole, options: ConsoleOptions) -> RenderResult:
        parts: Iterable[Segment] = console.render(self.renderable, options)
        for part in parts:
            yield part if part.control else Segment(visible(part.text), part.style)

    def __rich_measure__(self, console: RichConsole, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self.renderable)
