"""What each tensor of an ONNX network takes when it is encoded for real: no source, no labels, no task loss."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorpress.core import registry
from tensorpress.core.codec import Codec
from tensorpress.core.errors import InputError
from tensorpress.core.stream import frame_nbytes
from tensorpress.onnx.graph import OnnxSite, Skipped, find_sites, first_line, load, without_unknown

Array = NDArray[Any]
Feed = Mapping[str, Array]
TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
TYPES |= {
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}


def silent(what: str, done: int, total: int) -> None:
    """The progress of those who do not ask."""


@dataclass(frozen=True)
class Network:
    """An ONNX model whose sites come out of every run."""

    path: Path
    session: Any  # onnxruntime.InferenceSession
    sites: tuple[OnnxSite, ...]
    skipped: tuple[Skipped, ...]

    @property
    def inputs(self) -> list[Any]:
        return list(self.session.get_inputs())

    def run(self, feed: Feed, at: str) -> list[Array]:
        """The tensors of all sites, or with `at` 'input' what enters them. InputError where the network does not accept `feed`."""
        names = [site.before if at == "input" else site.tensor for site in self.sites]
        try:
            wanted = [name for name in dict.fromkeys(names) if name not in feed]  # an activation may stand at the very input
            found = dict(feed) | dict(zip(wanted, self.session.run(wanted, dict(feed))))
        except Exception as error:  # onnxruntime has a dozen types of its own
            shapes = ", ".join(f"{name} {list(x.shape)}" for name, x in feed.items())
            raise InputError(f"{self.path}: does not run on {shapes}: {first_line(error)}") from None
        return [found[name] for name in names]


def open_network(path: Path) -> Network:
    """Load a model and expose its sites. What cannot run here is left out and named in `skipped`; InputError where nothing is left."""
    model = load(path)
    try:
        import onnxruntime
    except ImportError:
        raise InputError("ONNX files need onnx and onnxruntime: pip install 'tensorpress[onnx]'") from None
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # fused tensors could not be seen
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    fault = ""
    for runtime_domains in (True, False):
        tried = copy.deepcopy(model)
        skipped, read = without_unknown(tried, runtime_domains)
        sites = find_sites(tried, read)
        if not sites:
            names = ", ".join(dict.fromkeys(s.op for s in skipped if s.reason == "unknown operator"))
            raise InputError(f"{path}: no tensor to compress" + (f" before the unknown operators {names}" if names else ""))
        _expose(tried, [name for site in sites for name in (site.tensor, site.before)])
        try:
            session = onnxruntime.InferenceSession(tried.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # as above; models past 2 GB do not serialise
            fault = fault or first_line(error)
            continue
        return Network(path, session, tuple(sites), tuple(skipped))
    raise InputError(f"{path}: onnxruntime refuses the model: {fault}")


def _expose(model: Any, names: Sequence[str]) -> None:
    import onnx

    present = {output.name for output in model.graph.output} | {x.name for x in model.graph.input}
    for name in dict.fromkeys(names):
        if name not in present:
            model.graph.output.append(onnx.ValueInfoProto(name=name))  # onnxruntime infers the type


@dataclass
class _Layer:
    """One site's codec and its account."""

    site: OnnxSite
    samples: list[Array] = field(default_factory=list)
    codec: Codec | None = None
    fault: str = ""
    shape: tuple[int, ...] = ()
    values: int = 0
    nonzero: int = 0
    nbytes: int = 0
    error: float = 0.0
    energy: float = 0.0


def profile(
    network: Network,
    feeds: Sequence[Feed],
    codec_id: str,
    options: Mapping[str, Any] | None = None,
    *,
    calib: int,
    progress: Callable[[str, int, int], None] = silent,
) -> dict[str, Any]:
    """Fit `codec_id` to each site on the first `calib` inputs, encode and decode the others for real, and return the row.

    With one input alone the codec is fitted to what it encodes; the row says so (`fitted_to_itself`). Sizes are payloads with
    12 bytes of framing; `shared_nbytes` is parameters and tables. InputError where a codec or an input cannot be used.
    """
    card = registry.card(codec_id)
    if card.family != "features":
        raise InputError(f"codec {codec_id!r} is of family {card.family!r}, not 'features'")
    at = registry.build(codec_id, options).tap
    if not feeds:
        raise InputError("no input to run the network on")
    itself = len(feeds) == 1
    calib = 1 if itself else calib
    if not 0 < calib < len(feeds) + itself:
        raise InputError(f"{calib} of {len(feeds)} inputs for calibration leave none to encode")
    layers = [_Layer(site) for site in network.sites]
    total = len(feeds)
    for number, feed in enumerate(feeds[:calib]):
        progress("reading maps", number, total)
        for layer, tensor in zip(layers, network.run(feed, at)):
            if not layer.fault:
                layer.fault = _unsuitable(tensor)
            if not layer.fault:
                layer.samples += _images(tensor, feed, layer.site)
    for layer in layers:
        if not layer.fault:
            try:
                layer.codec = registry.build(codec_id, options).fit(layer.samples)
            except InputError as error:
                raise InputError(f"tensor {layer.site.tensor!r}: {error}") from None
        layer.samples = []
    for number, feed in enumerate(feeds[0 if itself else calib :], calib):
        progress("encoding", number, total)
        for index, (layer, tensor) in enumerate(zip(layers, network.run(feed, at))):
            if layer.codec is not None:
                for x in _images(tensor, feed, layer.site):
                    _count(layer, index, x)
    return _row(network, layers, card.id, dict(options or {}), at, calib, total, itself)


def _unsuitable(tensor: Array) -> str:
    if not isinstance(tensor, np.ndarray) or not (tensor.dtype.kind == "f" or tensor.dtype in (np.uint8, np.int8)):
        return f"holds {getattr(tensor, 'dtype', type(tensor).__name__)}, neither floats nor 8-bit integers"
    if tensor.ndim < 2 or not tensor.size:
        return f"has shape {tuple(tensor.shape)}: no batch axis and values"
    return ""


def _images(tensor: Array, feed: Feed, site: OnnxSite) -> Iterator[Array] | list[Array]:
    """One array for each image, channels first."""
    batch = next(iter(feed.values())).shape[:1]
    images = list(tensor) if tensor.shape[:1] == batch else [tensor]
    tokens = tensor.ndim > 2 and (site.first is False or (tensor.ndim == 3 and not site.first))
    return [np.ascontiguousarray(np.moveaxis(x, -1, 0)) if tokens else x for x in images]


def _count(layer: _Layer, index: int, x: Array) -> None:
    if layer.codec is None:
        raise AssertionError("only fitted layers are counted")
    try:
        payload = layer.codec.encode_payload(x)
    except InputError as error:
        raise InputError(f"tensor {layer.site.tensor!r}: {error}") from None
    decoded = layer.codec.decode_payload(payload, max_nbytes=1 << 62).astype(np.float64)
    exact = x.astype(np.float64)
    layer.shape = x.shape
    layer.values += x.size
    layer.nonzero += int(np.count_nonzero(x))
    layer.nbytes += frame_nbytes(len(payload), index)
    layer.error += float(((decoded - exact) ** 2).sum())
    layer.energy += float((exact**2).sum())


def _row(
    network: Network, layers: Sequence[_Layer], codec: str, options: dict[str, Any], at: str, calib: int, total: int, itself: bool
) -> dict[str, Any]:
    done = [layer for layer in layers if layer.values and layer.codec is not None]
    if not done:
        raise InputError(f"{network.path}: no tensor could be encoded: " + "; ".join(f"{x.site.tensor!r} {x.fault}" for x in layers[:3]))
    skipped = [asdict(s) for s in network.skipped] + [
        {"op": x.site.op, "node": x.site.node, "reason": f"its output {x.fault}"} for x in layers if x.fault
    ]
    raw, nbytes = sum(layer.values for layer in done), sum(layer.nbytes for layer in done)
    shared = sum(layer.codec.shared_nbytes for layer in done if layer.codec is not None)
    ratios = [layer.values / layer.nbytes for layer in done]
    return {
        "model": network.path.name,
        "codec": codec,
        "options": options,
        "tap": at,
        "inputs": total if itself else total - calib,
        "calib_inputs": calib,
        "fitted_to_itself": itself,
        "sites": len(done),
        "raw_nbytes": raw,
        "nbytes": nbytes,
        "shared_nbytes": shared,
        "ratio": raw / nbytes,
        "ratio_with_shared": raw / (nbytes + shared),
        "ratio_mean_of_layers": float(np.mean(ratios)),
        "ratio_worst_layer": min(ratios),
        "bits_per_value": 8 * nbytes / raw,
        "layers": [
            {
                "tensor": layer.site.tensor,
                "op": layer.site.op,
                "node": layer.site.node,
                "shape": list(layer.shape),
                "density": layer.nonzero / layer.values,
                "raw_nbytes": layer.values,
                "nbytes": layer.nbytes,
                "ratio": layer.values / layer.nbytes,
                "nmse": layer.error / layer.energy if layer.energy else 0.0,
            }
            for layer in done
        ],
        "skipped": skipped,
    }


# --- what the network is run on -----------------------------------------------------------------------------------------


def sizes_of(network: Network) -> list[int | None]:
    """The sizes of a network's only input, None where they are free. InputError where it has several."""
    if len(network.inputs) != 1:
        names = ", ".join(x.name for x in network.inputs)
        raise InputError(f"{network.path}: has {len(network.inputs)} inputs ({names}): give them as arrays of one .npz")
    return [size if isinstance(size, int) else None for size in network.inputs[0].shape]


def feeds_of_arrays(network: Network, arrays: Mapping[str, Array] | Array, where: str) -> list[dict[str, Array]]:
    """Arrays with a batch axis, cut into one feed for each entry, or as many as the network's fixed batch takes."""
    if isinstance(arrays, np.ndarray):
        sizes_of(network)
        arrays = {network.inputs[0].name: arrays}
    wanted = {x.name: x for x in network.inputs}
    if set(arrays) != set(wanted):
        raise InputError(f"{where}: has the arrays {', '.join(sorted(arrays))}; the network's inputs are {', '.join(wanted)}")
    cast, groups = {}, set()
    for name, x in wanted.items():
        array = arrays[name]
        sizes = list(x.shape)
        if array.ndim == len(sizes) - 1 and array.ndim:
            array = array[None]
        fits = array.ndim == len(sizes) > 0 and all(not isinstance(s, int) or s == n for s, n in zip(sizes[1:], array.shape[1:]))
        if not fits or x.type not in TYPES:
            raise InputError(f"{where}: array of {array.dtype} {list(array.shape)} does not suit input {name!r}, which is {x.type} {sizes}")
        if array.dtype.kind not in "fiub":
            raise InputError(f"{where}: array of {array.dtype} for input {name!r}: numbers are needed")
        cast[name] = array.astype(TYPES[x.type])
        groups.add((len(array), sizes[0] if isinstance(sizes[0], int) and sizes[0] > 0 else 1))
    if len(groups) != 1:
        raise InputError(f"{where}: the arrays of several inputs differ in their batch: {sorted(groups)}")
    count, size = groups.pop()
    if count < size:
        raise InputError(f"{where}: {count} entries, the network takes {size} at once")
    return [{name: array[n : n + size] for name, array in cast.items()} for n in range(0, count - size + 1, size)]


def feeds_of_pictures(network: Network, pictures: Any, mean: Any, std: Any, resize: int | None, crop: int | None) -> list[dict[str, Array]]:
    """`pytorch.pictures.Pictures` as inputs, channels first or last as the network takes them; ImageNet's preprocessing unless said."""
    from tensorpress.pytorch.networks.pixels import Preprocessing

    sizes = sizes_of(network)
    if len(sizes) != 4 or 3 not in (sizes[1], sizes[3]):
        raise InputError(f"{network.path}: input {network.inputs[0].shape} takes no pictures of three channels: give --input")
    last = sizes[1] != 3
    height, width = sizes[1:3] if last else sizes[2:]
    if height != width:
        raise InputError(f"{network.path}: input {network.inputs[0].shape} is not square: give --input")
    crop = height or (224 if crop is None else crop)
    usual = crop * 256 // 224 if crop >= 160 else crop  # small networks see whole pictures
    wanted = Preprocessing(mean or Preprocessing.mean, std or Preprocessing.std, usual if resize is None else resize, crop)
    tensors = [pictures.tensor(n, wanted).numpy() for n in range(len(pictures))]
    batch = np.concatenate([np.moveaxis(x, 1, 3) if last else x for x in tensors])
    return feeds_of_arrays(network, batch, str(pictures.path))


def noise(network: Network, count: int, seed: int = 0) -> list[dict[str, Array]]:
    """Standard normal inputs where there is nothing better: shows the sites, and ratios that mean little."""
    sizes = sizes_of(network)
    if any(size is None for size in sizes[1:]):
        raise InputError(f"{network.path}: input sizes {network.inputs[0].shape} are free: give --input or --images")
    shape = [count * (sizes[0] or 1), *(size or 1 for size in sizes[1:])]
    return feeds_of_arrays(network, np.random.default_rng(seed).standard_normal(shape).astype(np.float32), "noise")
