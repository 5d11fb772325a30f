"""Sections 2 to 5 and 10: containers, payloads, frames, plans and bundles."""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass
from typing import Any

from .binary import Bytes, FormatError, canonical, check, need, parse_json, seed

STREAM, PLAN, BUNDLE = b"\x89TPS", b"\x89TPP", b"\x89TPB"
DTYPES = ["float32", "float16", "float64", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "bool"]
LIMIT = 1 << 30
HEADERS = {STREAM: 1 << 20, PLAN: 1 << 24, BUNDLE: 1 << 20}

Json = dict[str, Any]
State = dict[str, bytes]


# 2. Container


def open_container(data: bytes, kind: bytes) -> tuple[Json, dict[str, bytes]]:
    """(header, sections)."""
    src = Bytes(data, "container")
    need(src.take(4) == kind, f"byte 0: not the magic {kind.hex(' ')}")
    need(src.u(1) == 1, "byte 4: not version 1")
    size = src.varint()
    need(size <= HEADERS[kind], f"a header of {size} bytes")
    header = src.take(size)
    count = src.varint()
    need(count <= 65536, f"{count} sections")
    table = [(src.take(src.varint()), src.varint()) for _ in range(count)]
    head_check = check(data[: src.at])
    need(src.u(4) == head_check, f"header check at byte {src.at - 4} fails")
    found = parse_json(header, "header")
    need(isinstance(found, dict), "header is not an object")
    sections: dict[str, bytes] = {}
    for number, (name, length) in enumerate(table):
        try:
            text = name.decode()
        except UnicodeDecodeError:
            raise FormatError(f"name of section {number} is not UTF-8") from None
        need(text not in sections, f"section {text!r} stands twice")
        sections[text] = src.take(length)
        need(src.u(4) == check(sections[text], seed(head_check, number)), f"section {text!r}: its check at byte {src.at - 4} fails")
    src.end()
    return found, sections


@dataclass
class Stream:
    codec: str
    params: Json
    state: State
    payload: bytes


def open_stream(data: bytes, limit: int = LIMIT) -> Stream:
    header, sections = open_container(data, STREAM)
    need(set(header) == {"codec", "params", "shared"}, f"header has the keys {sorted(header)}")
    need(isinstance(header["codec"], str) and isinstance(header["params"], dict), "header: codec or params have a wrong type")
    need("payload" in sections, "no section 'payload'")
    payload = sections.pop("payload")
    need(all(name.startswith("state/") for name in sections), f"unknown sections among {sorted(sections)}")
    state = {name[6:]: data for name, data in sections.items()}
    need(sum(map(len, state.values())) <= limit, f"state is over the limit of {limit} bytes")
    digest = hashlib.sha256(canonical({"codec": header["codec"], "params": header["params"]}))
    for name in sorted(state):
        digest.update(canonical([name, len(state[name])]) + state[name])
    need(digest.hexdigest() == header["shared"], "header: `shared` is not the digest of parameters and state")
    return Stream(header["codec"], header["params"], state, payload)


# 3. Payload


@dataclass
class Payload:
    dtype: str
    shape: tuple[int, ...]
    stripes: list[bytes]

    @property
    def view(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        if len(self.shape) >= 3:
            return math.prod(self.shape[:-2]), self.shape[-2], self.shape[-1]
        return (self.shape[0] if self.shape else 1), 1, (self.shape[1] if len(self.shape) == 2 else 1)

    def rows(self, stripe: int) -> range:
        return range(8 * stripe, min(8 * stripe + 8, self.view[1]))

    @property
    def is_float(self) -> bool:
        return self.dtype.startswith("float")

    @property
    def width(self) -> int:
        """Bytes of a value."""
        return {"8": 1, "6": 2, "2": 4, "4": 8, "l": 1}[self.dtype[-1]]


def stripe_count(view: tuple[int, int, int]) -> int:
    return -(-view[1] // 8) if view[0] and view[2] else 0


def read_head(src: Bytes, limit: int) -> Payload:
    dtype, rank = src.u(1), src.u(1)
    need(dtype < len(DTYPES), f"payload byte 0: dtype {dtype}")
    need(rank <= 8, f"payload byte 1: {rank} dimensions")
    shape = tuple(src.varint() for _ in range(rank))
    need(math.prod(n for n in shape if n) <= 1 << 40, f"shape {shape} has more than 2^40 values")
    found = Payload(DTYPES[dtype], shape, [])
    need(math.prod(shape) * max(4, found.width) <= limit, f"shape {shape} is over the limit of {limit} bytes")
    return found


def open_payload(data: bytes, limit: int = LIMIT) -> Payload:
    src = Bytes(data, "payload")
    found = read_head(src, limit)
    s = check(data[: src.at])
    count = stripe_count(found.view)
    table = list(struct.iter_unpack("<II", src.take(8 * count)))
    need(sum(n for n, _ in table) == len(data) - src.at, f"payload: its stripes do not end where it does, at byte {len(data)}")
    for number, (length, expected) in enumerate(table):
        found.stripes.append(src.take(length))
        need(check(found.stripes[-1], seed(s, number)) == expected, f"stripe {number}: its check fails")
    return found


# 4. Plan-bound streams


@dataclass
class Frame:
    site: int
    plan: int
    payload: bytes
    nbytes: int


def open_frame(data: bytes, at: int = 0, limit: int = LIMIT) -> Frame:
    src = Bytes(data[at:], f"frame at byte {at}")
    word = src.u(4)
    need(word & 3 == 1, f"{src.what}: not version 1")
    site, length = word >> 2 & 255, word >> 10
    if site == 255 or length == 4194303:
        site, length = src.u(4), src.u(8)
    plan = src.u(4)
    front, expected = src.data[: src.at], src.u(4)
    payload = src.take(length)
    index = Bytes(payload, f"{src.what}, payload")
    index.take(8 * stripe_count(read_head(index, limit).view))
    need(check(payload[: index.at], check(front)) == expected, f"{src.what}: its check fails")
    return Frame(site, plan, payload, src.at)


# 5. Plan


@dataclass
class Entry:
    site: Json
    shape: list[int]
    codec: str
    params: Json
    reference: int | None
    state: State


@dataclass
class Plan:
    digest: str
    family: str
    model: str
    entries: list[Entry]

    @property
    def id(self) -> int:
        return int(self.digest[:8], 16)


def open_plan(data: bytes, limit: int = LIMIT) -> Plan:
    need(len(data) <= limit, f"plan of {len(data)} bytes is over the limit of {limit}")
    header, sections = open_container(data, PLAN)
    need(set(header) == {"family", "model", "entries", "meta"}, f"plan header has the keys {sorted(header)}")
    need(isinstance(header["family"], str) and isinstance(header["model"], str) and isinstance(header["meta"], dict), "plan header: a wrong type")
    need(isinstance(header["entries"], list) and len(header["entries"]) <= 4096, "plan header: entries is no list, or too long")
    states: list[State] = [{} for _ in header["entries"]]
    places = {str(n): state for n, state in enumerate(states)}
    for name, data_of in sections.items():
        number, _, piece = name.partition("/")
        need(number in places and piece != "", f"plan section {name!r} is of no entry")
        places[number][piece] = data_of
    entries = []
    for n, (row, state) in enumerate(zip(header["entries"], states)):
        need(isinstance(row, dict) and set(row) - {"reference"} == {"site", "shape", "codec", "params"}, f"plan entry {n}: keys")
        site, shape, reference = row["site"], row["shape"], row.get("reference")
        need(isinstance(site, dict) and set(site) == {"path", "call", "what", "view", "reads"}, f"plan entry {n}: site")
        need(all(isinstance(site[k], str) for k in ("path", "what", "view")) and all(type(site[k]) is int and 0 <= site[k] < 1 << 63 for k in ("call", "reads")), f"plan entry {n}: site")
        need(isinstance(shape, list) and all(type(d) is int and 0 <= d <= 1 << 40 for d in shape), f"plan entry {n}: shape")
        need(isinstance(row["codec"], str) and isinstance(row["params"], dict), f"plan entry {n}: codec or params")
        need("reference" not in row or (type(reference) is int and 0 <= reference < n), f"plan entry {n}: reference {reference!r}")
        entries.append(Entry(site, shape, row["codec"], row["params"], reference, state))
    return Plan(hashlib.sha256(data).hexdigest(), header["family"], header["model"], entries)


# 10. Bundle


def open_bundle(data: bytes, plan: Plan | None = None, limit: int = LIMIT) -> tuple[str, list[Frame]]:
    """(digest of its plan, frames)."""
    header, sections = open_container(data, BUNDLE)
    need(set(header) == {"plan", "frames"} and set(sections) == {"frames"}, "bundle: keys or sections")
    need(isinstance(header["plan"], str) and type(header["frames"]) is int, "bundle header: a wrong type")
    need(plan is None or header["plan"] == plan.digest, "bundle: of another plan")
    frames, at = [], 0
    while at < len(sections["frames"]):
        frames.append(open_frame(sections["frames"], at, limit))
        need(plan is None or (frames[-1].plan == plan.id and frames[-1].site < len(plan.entries)), f"frame at byte {at}: of another plan")
        at += frames[-1].nbytes
    need(len(frames) == header["frames"], f"bundle holds {len(frames)} frames, its header promised {header['frames']}")
    return header["plan"], frames
