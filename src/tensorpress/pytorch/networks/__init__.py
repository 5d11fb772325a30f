"""Networks that TensorPress can build by name; `factory` builds any other."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from tensorpress.pytorch.networks.characters import characters
from tensorpress.pytorch.networks.cifar import cifar_resnet20, cifar_resnet32, cifar_resnet44, cifar_resnet56
from tensorpress.pytorch.networks.mobilenet import mobilenet_v2
from tensorpress.pytorch.networks.resnet import resnet18, resnet34, resnet50, resnet101
from tensorpress.pytorch.networks.squeezenet import squeezenet1_1

NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    make.__name__: make
    for make in (
        resnet18,
        resnet34,
        resnet50,
        resnet101,
        squeezenet1_1,
        mobilenet_v2,
        cifar_resnet20,
        cifar_resnet32,
        cifar_resnet44,
        cifar_resnet56,
        characters,
    )
}
"""Each gives the architecture with fresh weights, in training mode; the attributes `mean, std, resize, crop, label_offset` say what it wants, or `inputs = "tokens"` that it takes no pictures."""
