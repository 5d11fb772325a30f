"""Forms: how one tensor of weights stands in a file. A system chooses them; this is all that a decoder knows."""

from __future__ import annotations

from tensorpress.blocks.forms.codebook import Codebook
from tensorpress.blocks.forms.factors import Factors, Fixed
from tensorpress.blocks.forms.form import FORMS, Form, Source, Target
from tensorpress.blocks.forms.grid import Grid, step_index, step_of
from tensorpress.blocks.forms.plain import Plain, Rounded
from tensorpress.blocks.forms.planes import Planes
from tensorpress.blocks.forms.slabs import Slabs

__all__ = ["FORMS", "Codebook", "Factors", "Fixed", "Form", "Grid", "Plain", "Planes", "Rounded", "Slabs", "Source", "Target", "step_index", "step_of"]
