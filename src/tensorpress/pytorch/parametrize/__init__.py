"""Every form as a parametrisation of a weight: what training sees is what the file will hold, bit for bit."""

from __future__ import annotations

from tensorpress.pytorch.parametrize.attached import attach, attached, forms, remove
from tensorpress.pytorch.parametrize.binary import Binary
from tensorpress.pytorch.parametrize.codebook import CodebookWeights
from tensorpress.pytorch.parametrize.floats import Floats
from tensorpress.pytorch.parametrize.mask import Mask, elements, n_of_m, rows
from tensorpress.pytorch.parametrize.parametrisation import Parametrisation
from tensorpress.pytorch.parametrize.product import Product, cp, separable, svd, tucker
from tensorpress.pytorch.parametrize.rounding import Rounding
from tensorpress.pytorch.parametrize.transformed import by_rule, elt, klt
from tensorpress.pytorch.parametrize.uniform import Uniform

__all__ = [
    "Binary", "CodebookWeights", "Floats", "Mask", "Parametrisation", "Product", "Rounding", "Uniform",
    "attach", "attached", "by_rule", "cp", "elements", "elt", "forms", "klt", "n_of_m", "remove", "rows", "separable", "svd", "tucker",
]  # fmt: skip
