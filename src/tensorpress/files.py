"""Files of the command line: arrays in, streams and plans described, arrays out. No pickle is ever read."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import os
import stat
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorpress.core import registry
from tensorpress.core.atomic import write_atomically
from tensorpress.core.binary import Buffer
from tensorpress.core.codec import Codec
from tensorpress.core.container import BUNDLE, KINDS, MAX_NBYTES, PLAN, STREAM, WEIGHTS, Container
from tensorpress.core.errors import InputError, StreamError
from tensorpress.core.payload import Reader
from tensorpress.core.recover import Recovered
from tensorpress.core.stream import FRAME_NBYTES, Frame, Stream, frame_front, read_frame
from tensorpress.facade import as_array, decode
from tensorpress.planning.plan import Plan
from tensorpress.planning.weight_file import SAME, WeightReader


def read_bytes(path: Path) -> bytes:
    """All of a file; of a pipe or a device, which may have no end, at most MAX_NBYTES. InputError where it cannot be read or has more."""
    try:
        with path.open("rb") as file:
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return file.read()
            data = file.read(MAX_NBYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    if len(data) > MAX_NBYTES:
        raise InputError(f"{path}: no plain file, and more than {MAX_NBYTES:,} bytes come out of it")
    return data


def read_array(path: Path) -> NDArray[Any]:
    """An .npy array, or the one tensor of a .pt file (weights only)."""
    data = read_bytes(path)
    try:
        if path.suffix in (".pt", ".pth"):
            import torch

            found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            if not isinstance(found, torch.Tensor):
                raise InputError(f"{path}: holds a {type(found).__name__}, not one tensor")
            return as_array(found)
        return np.load(io.BytesIO(data), allow_pickle=False)  # type: ignore[no-any-return]
    except InputError:
        raise
    except Exception as error:  # unpicklers and zip readers raise all kinds
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: is neither a .npy array nor a .pt tensor: {first}") from None


def write_array(path: Path, array: NDArray[Any]) -> None:
    out = io.BytesIO()
    if path.suffix in (".pt", ".pth"):
        import torch

        torch.save(torch.from_numpy(array.copy()), out)
    else:
        np.save(out, array, allow_pickle=False)
    write_atomically(path, out.getvalue())


def recover_stream(path: Path, data: bytes, plan_path: Path | None, max_nbytes: int) -> Recovered:
    """As `read_stream`, of a file that may be damaged or cut behind its header."""
    try:
        if plan_path is None:
            return decode(data, max_nbytes=max_nbytes, recover=True)
        plan = Plan.load(plan_path, max_nbytes=max_nbytes)
        frame = frame_front(memoryview(data), 0, max_nbytes=max_nbytes, whole=False)
        return _codec_of(frame, plan, plan_path).recover(frame.payload, max_nbytes=max_nbytes, trusted=True)
    except StreamError as error:
        raise StreamError(f"{path}: {error}") from None


def _codec_of(frame: Frame, plan: Plan, plan_path: Path) -> Codec:
    if frame.plan_id != plan.id or frame.site >= len(plan.entries):
        raise StreamError(f"written with plan {frame.plan_id:08x}, site {frame.site}; {plan_path} is plan {plan.id:08x}")
    return plan.entries[frame.site].codec


def read_stream(path: Path, data: bytes, plan_path: Path | None, max_nbytes: int) -> NDArray[Any]:
    """The array of a self-contained stream, or with a plan of a plan-bound one."""
    try:
        if plan_path is None:
            if data[:4] not in KINDS and len(data) >= FRAME_NBYTES and data[0] & 3 == 1:
                raise StreamError("not a self-contained stream; if it is plan-bound, give its plan with --plan")
            return decode(data, max_nbytes=max_nbytes)
        plan = Plan.load(plan_path, max_nbytes=max_nbytes)
        frame = read_frame(data, max_nbytes=max_nbytes)
        if frame.nbytes != len(data):
            raise StreamError(f"{len(data) - frame.nbytes} bytes stand after the frame's end at {frame.nbytes}")
        array: NDArray[Any] = _codec_of(frame, plan, plan_path).decode_payload(frame.payload, max_nbytes=max_nbytes)
        return array
    except StreamError as error:
        raise StreamError(f"{path}: {error}") from None


def describe(path: Path, data: Buffer, max_nbytes: int = MAX_NBYTES) -> dict[str, Any]:
    """kind, nbytes, parts (they sum to nbytes) and what else a file says of itself. Arrays of over `max_nbytes` (1 GiB by default) are refused."""
    try:
        kind = KINDS.get(bytes(data[:4]))
        if kind == "stream":
            stream = Stream.from_bytes(data, max_nbytes=max_nbytes)
            src = Reader(stream.payload, max_nbytes=max_nbytes)
            return {
                "kind": "stream",
                "nbytes": len(data),
                "parts": stream.breakdown(),
                "codec": stream.codec,
                "dtype": str(src.dtype),
                "shape": list(src.shape),
                "bits_per_value": 8 * len(data) / max(int(np.prod(src.shape)), 1),
                "params": dict(stream.params),
                "shared": stream.shared,
            }
        if kind == "plan":
            plan = Plan.from_bytes(data, max_nbytes=max_nbytes)
            sites = [{"site": e.site.name, "codec": e.codec.id, "shape": list(e.shape), "shared_nbytes": e.codec.shared_nbytes} for e in plan.entries]
            return {
                "kind": "plan",
                "nbytes": len(data),
                "parts": Container.from_bytes(data, PLAN, max_nbytes=max_nbytes).breakdown(),
                "family": plan.family,
                "digest": plan.digest,
                "id": f"{plan.id:08x}",
                "shared_nbytes": plan.shared_nbytes,
                "meta": {k: v for k, v in plan.meta.items() if k != "ranges"},
                "sites": sites,
            }
        if kind == "bundle":
            box = Container.from_bytes(data, BUNDLE, max_nbytes=len(data))
            return {**dict(box.header), "kind": "bundle", "nbytes": len(data), "parts": box.breakdown()}
        if kind == KINDS[WEIGHTS]:
            reader = WeightReader(data, max_nbytes=max_nbytes)
            tensors = [{"name": e.name, "dtype": e.dtype, "shape": list(e.shape), "form": e.form, **e.params} for e in reader.entries]
            raw = sum(e.values for e in reader.entries if e.form != SAME)
            facts = {"values": raw, "bits_per_value": 8 * len(data) / max(raw, 1), "made": dict(reader.made), "tensors": tensors}
            return {"kind": kind, "nbytes": len(data), "parts": reader.box.breakdown(), **facts}
        if len(data) >= FRAME_NBYTES and data[0] & 3 == 1:
            frame = read_frame(data, max_nbytes=max_nbytes)
            if frame.nbytes == len(data):
                src = Reader(frame.payload, max_nbytes=max_nbytes)
                index, body = src.index_nbytes, len(frame.payload) - src.index_nbytes
                parts = {"frame": frame.nbytes - len(frame.payload), "index": index, "payload": body}
                facts = {"site": frame.site, "plan": f"{frame.plan_id:08x}", "dtype": str(src.dtype), "shape": list(src.shape)}
                return {"kind": "plan-bound stream", "nbytes": len(data), "parts": parts, **facts}
        Container.from_bytes(data, STREAM, max_nbytes=len(data))  # says what is wrong with it
        raise StreamError("is not a TensorPress file")
    except StreamError as error:
        raise StreamError(f"{path}: {error}") from None


def option_rows(codec: str) -> list[dict[str, Any]]:
    """name, default and help (the comment beside it) of each option, from the system's own Config and what it inherits."""
    config = registry.system(codec, registry.any_card(codec).makes).Config
    comments: dict[str, str] = {}
    for owner in reversed([c for c in config.__mro__ if dataclasses.is_dataclass(c)]):
        source = textwrap.dedent(inspect.getsource(owner))
        lines = source.splitlines()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                comments[node.target.id] = lines[(node.end_lineno or 1) - 1].partition("#")[2].strip()
    return [{"name": field.name, "default": field.default, "help": comments.get(field.name, "")} for field in dataclasses.fields(config)]
