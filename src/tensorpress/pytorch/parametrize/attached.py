"""Parametrisations on a network's weights, by name, and off again."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.utils import parametrize

from tensorpress.blocks.forms import Form
from tensorpress.core.errors import InputError
from tensorpress.pytorch.parametrize.parametrisation import Parametrisation


def attach(model: nn.Module, chosen: Mapping[str, Parametrisation]) -> nn.Module:
    """`model`, changed: each weight named ('conv1.weight') is made by its parametrisation from now on. InputError for a name or a shape that it does not have."""
    for name, parametrisation in chosen.items():
        path, _, tensor = name.rpartition(".")
        try:
            module = model.get_submodule(path)
        except AttributeError as error:
            raise InputError(f"the network has no weight {name!r}") from error
        weight = module._parameters.get(tensor)
        if weight is None:
            raise InputError(f"the network has no weight {name!r}" + (": it has a parametrisation already" if parametrize.is_parametrized(module, tensor) else ""))
        shape = tuple(parametrisation.decoded().shape)
        if shape != tuple(weight.shape):
            raise InputError(f"weight {name!r} has shape {list(weight.shape)}, its parametrisation {list(shape)}")
        others = [chain[0].order for chain in getattr(module, "parametrizations", {}).values() if isinstance(chain[0], Parametrisation)]
        parametrisation.dtype, parametrisation.order = weight.dtype, others[0] if others else tuple(module._parameters)
        parametrize.register_parametrization(module, tensor, parametrisation)
    return model


def attached(model: nn.Module) -> dict[str, Parametrisation]:
    """Those on `model`, by the name of the weight."""
    found = {}
    for path, module in model.named_modules():
        for tensor, chain in getattr(module, "parametrizations", {}).items():
            if len(chain) == 1 and isinstance(chain[0], Parametrisation):
                found[f"{path}.{tensor}" if path else tensor] = chain[0]
    return found


def forms(model: nn.Module) -> dict[str, Form]:
    """Of every attached weight, by name: what `represent` owes."""
    return {name: parametrisation.form() for name, parametrisation in attached(model).items()}


@torch.no_grad()
def remove(model: nn.Module) -> nn.Module:
    """`model`, changed back: plain parameters with the values that the forms decode to."""
    for name, parametrisation in attached(model).items():
        path, _, tensor = name.rpartition(".")
        module = model.get_submodule(path)
        parametrize.remove_parametrizations(module, tensor, leave_parametrized=True)
        for other in parametrisation.order:  # a state's order is that of the file
            if other in module._parameters:
                module._parameters[other] = module._parameters.pop(other)
    return model
