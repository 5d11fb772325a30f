"""A small transformer over characters (GPT-2's blocks, pre-norm): the language model that weight compression is tried on."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tensorpress.core.errors import InputError

ALPHABET = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"  # of the plays that it is trained on
LAYERS, WIDTH, HEADS, CONTEXT = 4, 128, 4, 128


def tokens_of(text: str) -> Tensor:
    """int64 [n]: the place of each character in ALPHABET. InputError names one that is not there."""
    places = {character: place for place, character in enumerate(ALPHABET)}
    strange = next((c for c in text if c not in places), None)
    if strange is not None:
        raise InputError(f"character {strange!r} is none of the {len(ALPHABET)} that the network knows")
    return torch.tensor([places[c] for c in text], dtype=torch.int64)


def windows(text: str, count: int | None = None) -> tuple[Tensor, Tensor]:
    """(tokens, the next token of each), both int64 [n, CONTEXT]: the first `count` windows, or all, side by side from the beginning."""
    found = tokens_of(text)
    n = min((len(found) - 1) // CONTEXT, len(found) if count is None else count)
    if n < 1:
        raise InputError(f"a text of {len(found)} characters fills no window of {CONTEXT} and the one that follows")
    return found[: n * CONTEXT].view(n, CONTEXT), found[1 : n * CONTEXT + 1].view(n, CONTEXT)


class Block(nn.Module):
    """Causal attention and a perceptron of four times the width, each behind a norm and beside a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = nn.Linear(WIDTH, 3 * WIDTH)  # queries, keys, values
        self.project = nn.Linear(WIDTH, WIDTH)
        self.expand = nn.Linear(WIDTH, 4 * WIDTH)
        self.contract = nn.Linear(4 * WIDTH, WIDTH)
        self.activation = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.attention(self.norm1(x)).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], is_causal=True)
        x = x + self.project(seen.transpose(1, 2).flatten(2))
        return x + self.contract(self.activation(self.expand(self.norm2(x))))


class Characters(nn.Module):
    """Token ids, int64 [n, tokens], 128 tokens at most -> logits of each next one [n, tokens, 65]. The output layer is the embedding itself."""

    inputs = "tokens"  # no pictures: `mean`, `std` and their like mean nothing here

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(len(ALPHABET), WIDTH)
        self.positions = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*[Block() for _ in range(LAYERS)])
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, len(ALPHABET), bias=False)
        self.head.weight = self.tokens.weight
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:  # projections back onto the skip are smaller, so that its variance does not grow with depth
                nn.init.normal_(parameter, std=0.02 / (2 * LAYERS) ** 0.5 if "project" in name or "contract" in name else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.ones_like(ids).cumsum(1) - 1
        return self.head(self.norm(self.blocks(self.tokens(ids) + self.positions(places))))


def characters() -> nn.Module:
    return Characters()
