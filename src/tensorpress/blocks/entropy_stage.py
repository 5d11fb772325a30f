"""The last step of a codec: whole numbers to stripes, each coded alone by rANS or Huffman with fitted tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorpress.coding import huffman, rans
from tensorpress.core.errors import StreamError, StripeError
from tensorpress.core.payload import STRIPE_ROWS, Reader, View, Writer, chw, stripe_count
from tensorpress.core.stage import Stage

CODERS: dict[str, Any] = {"rans": rans, "huffman": huffman}  # modules with an Encoder and a Decoder


@dataclass(frozen=True)
class Group:
    """Channels that share one table: an index along the first axis of the symbols, or None for all."""

    tables: Any  # coding.tables.Tables, or coding.huffman.HuffmanTables
    channels: NDArray[np.intp] | None = None

    @property
    def where(self) -> Any:
        return slice(None) if self.channels is None else self.channels


class EntropyStage(Stage[NDArray[Any], None]):
    """Symbols (C, H, W), uint8 or uint16 -> one string for each 8 rows: group after group, in each channel, row, column.

    `channels`: the C that the groups are made for, where they name single channels.
    """

    def __init__(self, groups: Sequence[Group], coder: str = "rans", channels: int | None = None) -> None:
        self.groups, self.coder, self.channels = tuple(groups), CODERS[coder], channels
        self.dtype = np.uint8 if all(group.tables.symbols <= 256 for group in groups) else np.uint16

    def max_stripe_nbytes(self, dtype: np.dtype[Any], view: View, rows: int) -> int:
        values = rows * view[2]
        found: int = self.coder.max_nbytes([((view[0] if g.channels is None else len(g.channels)) * values, g.tables) for g in self.groups])
        return found

    def encode(self, x: NDArray[Any], out: Writer) -> None:
        for number in range(stripe_count(out.shape)):
            coder = self.coder.Encoder()
            stripe = x[:, number * STRIPE_ROWS : (number + 1) * STRIPE_ROWS]
            for group in self.groups:
                coder.put(stripe[group.where], None, group.tables)
            out.stripe(coder.finish())

    def decode(self, y: None, src: Reader) -> NDArray[Any]:
        view = chw(src.shape)
        if self.channels is not None and math.prod(view) and view[0] != self.channels:
            raise StreamError(f"payload declares {view[0]} channels, the codec was fitted to {self.channels}")
        symbols = np.empty(view, self.dtype)
        for number in range(stripe_count(src.shape)):
            stripe = symbols[:, number * STRIPE_ROWS : (number + 1) * STRIPE_ROWS]
            channels, rows, columns = stripe.shape
            data = src.stripe()
            try:
                coder = self.coder.Decoder(data)
                for group in self.groups:
                    shape = (channels if group.channels is None else len(group.channels), rows, columns)
                    stripe[group.where] = coder.take(None, group.tables, math.prod(shape), self.dtype).reshape(shape)
                coder.done()
            except StreamError as error:
                raise StripeError(number, str(error)) from None
        return symbols
