"""Small networks of every kind of layer, made from a seed."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Mixed(nn.Module):
    """Convolutions (grouped, strided, one-dimensional), batch norm, tied linear layers, a shared one, a parameter that no layer reads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.depth = nn.Conv2d(8, 8, 3, groups=8, padding="same", dilation=2)
        self.wide = nn.Conv2d(8, 16, 1, stride=2)
        self.line = nn.Conv1d(16, 16, 3, padding=1)
        self.norm = nn.LayerNorm(16)
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 16, bias=False)
        self.second.weight = self.first.weight
        self.raw = nn.Parameter(torch.randn(16, 12) / 4)
        self.register_buffer("empty", torch.zeros(0, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.stem(x)))
        x = torch.relu(self.wide(self.depth(x)))
        x = self.line(x.flatten(2)).mean(2)
        return self.second(torch.tanh(self.first(self.norm(x)))) @ self.raw


def mixed(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = Mixed()
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(16, 3, 8, 8))
    return model.eval()


def pictures(count: int = 16, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


class Attention(nn.Module):
    """Tokens, an embedding tied to the output, a block of PyTorch's own attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(16, 20, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.block(self.embed(tokens)))


def attention(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return Attention().eval()


def tokens(count: int = 8, seed: int = 1) -> Tensor:
    return torch.randint(20, (count, 10), generator=torch.Generator().manual_seed(seed))
