"""A site: a tensor in a network that an accelerator would store."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, order=True)
class Site:
    """(`path`, `call`): the `call`-th tensor of its kind which the module at `path` makes in one forward pass.

    `what` is the operation that makes it: 'relu', 'add', 'linear' …; `view` says how a single image's tensor is laid
    out: 'chw' (channels first) or 'tokens' (channels last, as in transformers).
    """

    path: str
    call: int = 0
    what: str = "activation"
    view: str = "chw"
    reads: int = field(default=1, compare=False)  # how many operations read the tensor from memory

    @property
    def name(self) -> str:
        return f"{self.path or '(network)'}:{self.what}" + (f"#{self.call}" if self.call else "")

    def to_json(self) -> dict[str, Any]:
        return {"path": self.path, "call": self.call, "what": self.what, "view": self.view, "reads": self.reads}
