"""What a codec writes: one payload, in two forms.

Self-contained, a stream carries parameters and shared state and opens anywhere. Plan-bound (a frame), it carries 12
bytes besides the payload, and the decoder holds the plan. FORMAT.md, sections 2 to 4.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tensorpress import _native
from tensorpress.core.binary import Buffer, crc32c, digest
from tensorpress.core.container import MAX_NBYTES, STREAM, Container
from tensorpress.core.errors import StreamError
from tensorpress.core.payload import DTYPES, Reader

STATE = "state/"  # sections of shared state inside a self-contained stream


@dataclass(frozen=True)
class Stream:
    """One encoded tensor. `shared` is the digest of what a decoder must hold: parameters and state."""

    codec: str
    params: Mapping[str, Any]
    sections: Mapping[str, Buffer]  # 'payload'
    state: Mapping[str, Buffer] = field(default_factory=dict)

    @property
    def payload(self) -> Buffer:
        return self.sections["payload"]

    @property
    def shared(self) -> str:
        return digest({"codec": self.codec, "params": dict(self.params)}, self.state)

    def _container(self) -> Container:
        header = {"codec": self.codec, "params": dict(self.params), "shared": self.shared}
        return Container(STREAM, header, {**{STATE + k: v for k, v in self.state.items()}, **self.sections})

    def to_bytes(self) -> bytes:
        """The self-contained form."""
        return self._container().to_bytes()

    @property
    def nbytes(self) -> int:
        return len(self.to_bytes())

    def breakdown(self) -> dict[str, int]:
        """Bytes of the self-contained form by part, framing included; sums to `nbytes`."""
        parts = self._container().breakdown()
        index = Reader(self.payload, max_nbytes=1 << 62).index_nbytes
        parts["index"] = index
        parts["payload"] -= index
        return parts

    @classmethod
    def from_bytes(cls, data: Buffer, *, max_nbytes: int = MAX_NBYTES) -> Stream:
        """Parse the self-contained form. StreamError on anything but a whole, undamaged stream.

        `max_nbytes` (1 GiB by default) limits what is made of the data: its state here, the array in `Codec.decode`. The data itself is there already, and the
        payload is a view of it: a raw array of just `max_nbytes` opens, though its stream is longer.
        """
        return cls.from_container(Container.from_bytes(data, STREAM, max_nbytes=memoryview(data).nbytes), max_nbytes=max_nbytes)

    @classmethod
    def from_container(cls, box: Container, *, max_nbytes: int = MAX_NBYTES) -> Stream:
        """StreamError where it does not hold what a stream has, other state than it says, or state of over `max_nbytes` (1 GiB by default)."""
        header = box.header
        if set(header) != {"codec", "params", "shared"} or not isinstance(header["params"], dict) or not isinstance(header["codec"], str):
            raise StreamError(f"stream header has the keys {sorted(header)}, not codec, params and shared")
        if "payload" not in box.sections:
            raise StreamError("stream has no section 'payload'")
        state = {k.removeprefix(STATE): v for k, v in box.sections.items() if k.startswith(STATE)}
        if sum(map(len, state.values())) > max_nbytes:
            raise StreamError(f"shared state of {sum(map(len, state.values()))} bytes is over the limit of {max_nbytes}")
        extra = set(box.sections) - {STATE + k for k in state} - {"payload"}
        if extra:
            raise StreamError(f"stream has unknown sections {sorted(extra)}")
        stream = cls(header["codec"], header["params"], {"payload": box.sections["payload"]}, state)
        if stream.shared != header["shared"]:
            raise StreamError(f"shared state has digest {stream.shared[:16]}…, the header promised {str(header['shared'])[:16]}…")
        return stream


# --- the plan-bound form -------------------------------------------------------------------------------------------

FRAME_VERSION = 1
FRAME_NBYTES = 12
MAX_FRAME_HEAD_NBYTES = 24
_WIDE_SITE, _WIDE_LENGTH = 0xFF, 0x3FFFFF  # either one in the first word: a u32 site and a u64 length follow it


WIDEST_NBYTES = 8  # of a value


class Frame(NamedTuple):
    site: int
    plan_id: int
    payload: memoryview
    nbytes: int  # of the frame, as far as it is there


def write_frame(payload: Buffer, site: int, plan_id: int) -> bytes:
    """A plan-bound stream: word(version 2 bits, site 8, length 22) plan id(4) check(4) payload.

    The check covers the word, the plan id and the payload's index, whose stripe checks cover the rest.
    """
    return frame_head(payload, Reader(payload, max_nbytes=1 << 62).index_nbytes, site, plan_id) + payload


def frame_head(payload: Buffer, index_nbytes: int, site: int, plan_id: int) -> bytes:
    """What stands before a payload in its frame. `index_nbytes`: of its head and stripe table."""
    return _native.frame_head(payload, index_nbytes, site, plan_id)


def frame_nbytes(payload_nbytes: int, site: int) -> int:
    """The size of a frame, without writing it."""
    wide = site >= _WIDE_SITE or payload_nbytes >= _WIDE_LENGTH
    return payload_nbytes + FRAME_NBYTES + (12 if wide else 0)


def read_frame(data: Buffer, at: int = 0, *, max_nbytes: int = MAX_NBYTES) -> Frame:
    """The frame that begins at byte `at`. StreamError where it is cut, damaged, of another version, or declares more than `max_nbytes` (1 GiB by default)."""
    data = memoryview(data)[at:]
    found = _native.read_frame(data)
    if found is not None and found[4] < len(DTYPES) and found[5] * WIDEST_NBYTES <= max_nbytes:
        site, plan_id, start, end = found[:4]
        return Frame(site, plan_id, data[start:end], end)
    return frame_front(data, at, max_nbytes=max_nbytes)  # looks at it step by step, to say what is wrong


def frame_front(data: memoryview, at: int, *, max_nbytes: int, whole: bool = True) -> Frame:
    """The frame at the front of `data`, byte `at` of something longer. Where it need not be `whole`, its payload may be cut after the stripe table."""
    if len(data) < FRAME_NBYTES:
        raise StreamError(f"frame at byte {at} is cut: {len(data)} bytes are left, its head has {FRAME_NBYTES}")
    (word,) = struct.unpack_from("<I", data, 0)
    if word & 3 != FRAME_VERSION:
        raise StreamError(f"frame at byte {at} has version {word & 3}; this TensorPress reads version {FRAME_VERSION}")
    site, length, head = word >> 2 & 0xFF, word >> 10, 8
    if site == _WIDE_SITE or length == _WIDE_LENGTH:
        if len(data) < 24:
            raise StreamError(f"frame at byte {at} is cut: {len(data)} bytes are left, its head has 24")
        site, length = struct.unpack_from("<IQ", data, 4)
        head = 20
    (plan_id,) = struct.unpack_from("<I", data, head - 4)
    (check,) = struct.unpack_from("<I", data, head)
    start = head + 4
    if length > len(data) - start and whole:
        raise StreamError(f"frame of site {site} ends at {at + len(data)}, its head promised {at + start + length}")
    payload = data[start : start + length]
    index = payload[: Reader(payload, max_nbytes=max_nbytes, nbytes=length).index_nbytes]
    if crc32c(index, crc32c(data[:head])) != check:
        raise StreamError(f"frame at byte {at} is damaged: the check over its head and index fails")
    return Frame(site, plan_id, payload, start + len(payload))
