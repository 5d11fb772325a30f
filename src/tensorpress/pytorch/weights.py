"""Weights from safetensors, npz and PyTorch files, never by running what is in them, and networks that hold them."""

from __future__ import annotations

import difflib
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from tensorpress.core.errors import InputError
from tensorpress.pytorch.networks import NETWORKS
from tensorpress.pytorch.networks.factory import build, reason
from tensorpress.pytorch.networks.pixels import Preprocessing, keep, preprocessing

__all__ = ["Preprocessing", "load_network", "load_weights", "preprocessing", "read_npz"]

PYTORCH_FILES = (".pt", ".pth", ".th", ".bin", ".ckpt", ".tar")
WRAPPERS = ("state_dict", "model_state_dict", "model")  # where checkpoints keep the state dict beside epochs and optimisers
UNPACKED_NBYTES = 1 << 30  # what any archive may unpack to; a large one to more
UNPACKED_RATIO = 64  # times its own size
COUNTER = "num_batches_tracked"  # inference never reads it, and exporters leave it out


def load_network(
    arch: str | None = None,
    model: str | None = None,
    weights: str | Path | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    resize: int | None = None,
    crop: int | None = None,
    label_offset: int | None = None,
) -> nn.Module:
    """A network in `eval` mode: `arch` from NETWORKS, or `model` as 'package.module:factory' or 'path/to/file.py:factory'.

    `model` is code: its file is run, with all that it imports. The factory is given the path of the weights where it takes one; otherwise the file is read here. Without `weights`
    the network stays as its maker left it, for one of NETWORKS that is random. `preprocessing(network)` then answers with the
    values given here, else the network's attributes of these names, else ImageNet's. InputError names the file and the
    reason.
    """
    if (arch is None) == (model is None):
        raise InputError("give either arch or model: " + ("both are there" if arch is not None else "neither is there"))
    path = None if weights is None else Path(weights)
    if path is not None and not path.exists():
        raise InputError(f"{path}: no such file")
    network, loaded = (_named(arch), False) if arch is not None else build(str(model), path)
    if path is not None and not loaded:
        _fill(network, load_weights(path), f"{path}: weights do not fit {arch or model}")
    keep(network, preprocessing(network, mean=mean, std=std, resize=resize, crop=crop, label_offset=label_offset))
    return network.eval()


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """The state dict in `path`, on the CPU, with every float as float32; integers keep their type.

    Read are .safetensors, .npz, and PyTorch files of nothing but tensors, also inside {'state_dict': ...}. A 'module.'
    before all keys, left by DataParallel, goes. InputError where the file is missing, cut, of another kind, or holds
    what is no tensor.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file" if not path.exists() else f"{path}: not a file")
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        try:
            found: Mapping[str, Any] = safetensors.torch.load_file(path)
        except Exception as error:  # the Rust reader has an exception type of its own
            raise InputError(f"{path}: not a readable safetensors file: {reason(error)}") from error
    elif suffix == ".npz":
        found = {name: _from_array(array, f"{path}: array {name!r}") for name, array in read_npz(path).items()}
    elif suffix in PYTORCH_FILES:
        found = _read_pytorch(path)
    else:
        raise InputError(f"{path}: weights are .safetensors, .npz or {', '.join(PYTORCH_FILES)} files")
    return _state_dict(found, path)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz. InputError where it is missing, cut, damaged or holds Python objects, which are never loaded."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path}: not an npz archive, or cut")
    _bounded(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # zip, zlib, numpy's header parser: each has its own
        raise InputError(f"{path}: not a readable npz archive: {reason(error)}") from error
    stray = [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]
    if stray:  # numpy hands out the bytes of whatever else lies in the archive
        raise InputError(f"{path}: {stray[0]!r} is not an array")
    return arrays


def _bounded(path: Path) -> None:
    """InputError where a zip archive would unpack to much more than it is."""
    limit = max(UNPACKED_NBYTES, UNPACKED_RATIO * path.stat().st_size)
    try:
        with zipfile.ZipFile(path) as archive:
            nbytes = sum(info.file_size for info in archive.infolist())  # more than this zipfile does not read
    except Exception as error:  # a damaged directory may raise anything
        raise InputError(f"{path}: not a readable archive: {reason(error)}") from error
    if nbytes > limit:
        raise InputError(f"{path}: an archive of {path.stat().st_size:,} bytes unpacks to {nbytes:,} bytes, over the limit of {limit:,}")


def _read_pytorch(path: Path) -> Mapping[str, Any]:
    if zipfile.is_zipfile(path):
        _bounded(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(f"{path}: PyTorch cannot read it as plain tensors: {reason(error, 120)}") from error
    for name in WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    if not isinstance(found, Mapping):
        raise InputError(f"{path}: holds {type(found).__name__}, not a state dict")
    return found


def _from_array(array: np.ndarray, where: str) -> Tensor:
    try:
        return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))
    except TypeError:
        raise InputError(f"{where} has dtype {array.dtype}, which is no tensor's") from None


def _state_dict(found: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    if not found:
        raise InputError(f"{path}: holds no tensor")
    stray = [name for name, value in found.items() if not isinstance(value, Tensor) or value.is_complex() or not _plain(value)]
    if stray:
        raise InputError(f"{path}: holds entries that are no real tensors: {_some(stray)}")
    held, wanted = _storage_nbytes(found.values()), sum(4 * value.numel() for value in found.values())
    if wanted > max(UNPACKED_NBYTES, UNPACKED_RATIO * held):
        raise InputError(f"{path}: its tensors would take {wanted:,} bytes, and it holds {held:,}")
    prefix = "module." if all(str(name).startswith("module.") for name in found) else ""
    return {
        str(name).removeprefix(prefix): (value.detach().float() if value.is_floating_point() else value.detach())
        for name, value in found.items()
    }


def _plain(tensor: Tensor) -> bool:
    """Whether a tensor is numbers in memory: not sparse, not quantised, not a shape alone."""
    return tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_meta


def _storage_nbytes(tensors: Iterable[Tensor]) -> int:
    """Bytes that lie behind tensors, each storage counted once: a stride of 0 makes much of little."""
    return sum({s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in tensors)}.values())


def _named(arch: str) -> nn.Module:
    if arch not in NETWORKS:
        near = difflib.get_close_matches(arch, NETWORKS, 1)
        raise InputError(f"unknown arch {arch!r}" + (f"; did you mean {near[0]!r}?" if near else "") + f" Known: {', '.join(NETWORKS)}")
    return NETWORKS[arch]()


def _fill(network: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load `state`; one InputError tells of all that is missing, unexpected, misshapen or of the wrong kind."""
    own = network.state_dict()
    common = [key for key in own if key in state]
    faults = {
        "missing": [key for key in own if key not in state and not key.endswith(COUNTER)],
        "unexpected": [key for key in state if key not in own],
        "of another shape": [f"{k} {_size(state[k])} for {_size(own[k])}" for k in common if state[k].shape != own[k].shape],
        "integers for floats": [k for k in common if own[k].is_floating_point() and not state[k].is_floating_point()],
    }
    told = [f"{len(keys)} {fault} ({_some(keys)})" for fault, keys in faults.items() if keys]
    if told:
        raise InputError(f"{where}: {', '.join(told)}")
    network.load_state_dict(dict(state), strict=False)


def _some(names: Sequence[object]) -> str:
    return ", ".join(map(str, names[:3])) + (" …" if len(names) > 3 else "")


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
