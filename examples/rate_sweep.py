"""Bytes against error of one tensor, codec by codec. Run: python examples/rate_sweep.py"""

import numpy as np

import tensorpress
from tensorpress.core.registry import cards

rng = np.random.default_rng(0)
x = np.maximum(rng.laplace(size=(64, 56, 56)) * rng.gamma(1, 1, size=(64, 1, 1)) - 0.2, 0).astype(np.float32)
print(f"{x.size:,} values, {100 * (x > 0).mean():.0f} % not zero; self-contained streams, parameters and tables inside")
for card in cards().values():
    settings = {"step": (1.0, 3.0, 8.0), "levels": (256, 64, 16), "bits": (9.0, 7.0, 5.0)}.get(card.quality, (None,))
    for value in settings:
        data = tensorpress.encode(x, card.id, **({card.quality: value} if card.quality else {}))
        error = np.sqrt(np.mean((tensorpress.decode(data) - x) ** 2)) / x.std()
        print(f"{card.id:13} {card.quality or '-':6} {'' if value is None else f'{value:g}':>4}  {8 * len(data) / x.size:5.2f} bits a value  error {error:.4f} deviations")
