"""ResNet-18, 34, 50 and 101 for 224 x 224 pictures (He et al., CVPR 2016), with the keys and the v1.5 stride of torchvision."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tensorpress.pytorch.networks.pixels import Preprocessing


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """A 1 x 1 convolution where the block changes the shape (option B of the paper); None where it does not."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a skip; one ReLU module serves both activations."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + skip)


class Bottleneck(nn.Module):
    """1 x 1 down, 3 x 3, 1 x 1 up and a skip; the stride is on the 3 x 3 convolution, which is what "v1.5" means."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + skip)


def layer(block: type[BasicBlock] | type[Bottleneck], inputs: int, width: int, depth: int, stride: int) -> nn.Sequential:
    """`depth` blocks, the first of which has the stride."""
    return nn.Sequential(block(inputs, width, stride), *[block(width * block.expansion, width, 1) for _ in range(depth - 1)])


class ResNet(nn.Module):
    """[n, 3, 224, 224] -> logits [n, 1000]; four layers of `depths` blocks with 64, 128, 256 and 512 channels (times the expansion)."""

    mean, std = Preprocessing.mean, Preprocessing.std
    resize, crop, label_offset = 256, 224, 0

    def __init__(self, block: type[BasicBlock] | type[Bottleneck], depths: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        grow = block.expansion
        self.layer1 = layer(block, 64, 64, depths[0], 1)
        self.layer2 = layer(block, 64 * grow, 128, depths[1], 2)
        self.layer3 = layer(block, 128 * grow, 256, depths[2], 2)
        self.layer4 = layer(block, 256 * grow, 512, depths[3], 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512 * grow, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet18() -> nn.Module:
    return ResNet(BasicBlock, (2, 2, 2, 2))


def resnet34() -> nn.Module:
    return ResNet(BasicBlock, (3, 4, 6, 3))


def resnet50() -> nn.Module:
    return ResNet(Bottleneck, (3, 4, 6, 3))


def resnet101() -> nn.Module:
    return ResNet(Bottleneck, (3, 4, 23, 3))
