"""The plan of a network's feature maps: which codec stands at which site, ready to be attached."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from tensorpress.core.binary import Buffer
from tensorpress.core.container import MAX_NBYTES
from tensorpress.core.errors import StreamError
from tensorpress.planning.plan import Plan
from tensorpress.pytorch.attach import Run, Watch, attach

FAMILY = "features"
F = TypeVar("F", bound="FeaturePlan")


class FeaturePlan(Plan):
    """A `Plan` of family 'features'. Each entry's shape is that of one image's array as its codec sees it, channels first."""

    def attach(self, model: nn.Module, *, exact: bool = True, keep: bool = False, watch: Watch | None = None) -> Run:
        """`with plan.attach(model) as run:` sends every site through its codec; see `tensorpress.pytorch.attach.attach`."""
        return attach(self, model, exact=exact, keep=keep, watch=watch)

    @classmethod
    def from_bytes(cls: type[F], data: Buffer, *, max_nbytes: int = MAX_NBYTES) -> F:
        """StreamError on anything but a whole, undamaged plan of this version and family."""
        plan = super().from_bytes(data, max_nbytes=max_nbytes)
        if plan.family != FAMILY:
            raise StreamError(f"plan is of family {plan.family!r}, not {FAMILY!r}")
        return plan
