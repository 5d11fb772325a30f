"""ResNet-20, 32, 44 and 56 for CIFAR-10 (He et al., CVPR 2016, section 4.2): 16, 32 and 64 channels, shortcuts without weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tensorpress.pytorch.networks.pixels import Preprocessing


class Block(nn.Module):
    """Two 3 x 3 convolutions and a skip; one ReLU module serves both activations.

    Where the stride is 2 the skip takes every second pixel and lies between zero channels (option A of the paper).
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.zeros = (outputs - inputs) // 2  # channels before and after

    def forward(self, x: Tensor) -> Tensor:
        skip = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.zeros, self.zeros)) if self.zeros else x
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + skip)


class CifarResNet(nn.Module):
    """[n, 3, 32, 32] -> logits [n, 10]; three layers of `depth` blocks. Pictures are neither resized nor cropped."""

    mean, std = Preprocessing.mean, Preprocessing.std
    resize, crop, label_offset = 0, 0, 0

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = nn.Sequential(*[Block(16, 16, 1) for _ in range(depth)])
        self.layer2 = nn.Sequential(Block(16, 32, 2), *[Block(32, 32, 1) for _ in range(depth - 1)])
        self.layer3 = nn.Sequential(Block(32, 64, 2), *[Block(64, 64, 1) for _ in range(depth - 1)])
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(torch.flatten(self.avgpool(x), 1))


def cifar_resnet20() -> nn.Module:
    return CifarResNet(3)


def cifar_resnet32() -> nn.Module:
    return CifarResNet(5)


def cifar_resnet44() -> nn.Module:
    return CifarResNet(7)


def cifar_resnet56() -> nn.Module:
    return CifarResNet(9)
