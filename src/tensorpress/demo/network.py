"""A ResNet of 14 layers for 32 x 32 digits: 13 activation sites, 175 thousand weights (He et al., CVPR 2016, section 4.2)."""

from __future__ import annotations

from importlib import resources

import safetensors.torch
import torch
from torch import Tensor, nn

from tensorpress.pytorch.networks.resnet import BasicBlock, layer

WEIGHTS = "digits_resnet.safetensors"  # float16, made by `python -m tensorpress.demo.train`


class DigitsResNet(nn.Module):
    """[n, 3, 32, 32] -> logits [n, 10]; maps of 16 x 32 x 32, 32 x 16 x 16 and 64 x 8 x 8 in between."""

    mean, std = (0.31, 0.31, 0.31), (0.349, 0.349, 0.349)  # of the training pixels, in 0 to 1
    resize, crop, label_offset = 0, 0, 0

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = layer(BasicBlock, 16, 16, 2, 1)
        self.layer2 = layer(BasicBlock, 16, 32, 2, 2)
        self.layer3 = layer(BasicBlock, 32, 64, 2, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def digits_resnet() -> nn.Module:
    """The architecture, with fresh weights and in training mode."""
    return DigitsResNet()


def load() -> nn.Module:
    """The trained network in float32 and in `eval` mode, with the weights that the package ships."""
    network = digits_resnet()
    weights = resources.files("tensorpress.demo").joinpath(WEIGHTS).read_bytes()
    network.load_state_dict(safetensors.torch.load(weights))
    return network.eval()
