"""What Python reads from strangers, under atheris: streams, plans, frames. Nothing but StreamError may come out.

    python native/fuzz/python_targets.py stream|plan|frames|bundle [libFuzzer's options] [corpus …]
    python native/fuzz/python_targets.py --seeds FOLDER     writes FOLDER/<target>/<name>, from the golden streams

Half of all mutations change the parts of a file (its header, a section, a payload's stripes) and make every check right again; the other half change bytes as they lie.
A target that is asked to replay (`--replay FILE …`) needs no atheris: that is how found inputs are tested.
"""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

GOLDEN = Path(__file__).parents[2] / "tests" / "golden" / "streams"
LIMIT = 1 << 16  # bytes that a decoder may produce: executions shall be short
Mutate = Callable[[bytes], bytes]


# --- the targets ---------------------------------------------------------------------------------------------------------


def stream(data: bytes) -> None:
    """A self-contained stream: parsed, its codec built, its array decoded, whole or what is left of it; its header can be written again."""
    from tensorpress import facade
    from tensorpress.core import registry
    from tensorpress.core.errors import StreamError
    from tensorpress.core.stream import Stream

    found = None
    try:
        found = Stream.from_bytes(data, max_nbytes=LIMIT)
        if found.codec in registry.cards() and not registry.card(found.codec).stable:
            return  # what other libraries do with damaged bytes is theirs to test
        array = facade.decode(data, max_nbytes=LIMIT)
        assert array.nbytes <= LIMIT, f"{array.nbytes} bytes, over the limit"
        assert Stream.from_bytes(found.to_bytes()).shared == found.shared
    except StreamError as error:
        assert str(error) and "\n" not in str(error), f"an error of another form: {error!r}"
    if b"blosc2" in data or b"zstd" in data or b"lz4" in data or b"zfp" in data or sum(data[-8:]) % 4:
        return
    try:
        left = facade.decode(data, max_nbytes=LIMIT, recover=True)
    except StreamError as error:
        assert str(error) and "\n" not in str(error), f"an error of another form: {error!r}"
        return
    assert left.array.nbytes <= LIMIT and left.lost.shape == left.array.shape and not left.array[left.lost].any()


def plan(data: bytes) -> None:
    """A plan file: parsed, and written to a plan with the same bytes."""
    from tensorpress.core.errors import StreamError
    from tensorpress.planning.plan import Plan

    try:
        found = Plan.from_bytes(data, max_nbytes=LIMIT)
    except StreamError as error:
        assert str(error) and "\n" not in str(error), f"an error of another form: {error!r}"
        return
    again = Plan.from_bytes(found.to_bytes())
    assert again.to_bytes() == found.to_bytes() and again.id == found.id and found.shared_nbytes > 0


def frames(data: bytes) -> None:
    """Frames one after another, as in a bundle; each is decoded by a codec that stands in no file: the decoder's own."""
    from tensorpress.core.errors import StreamError
    from tensorpress.core.stream import read_frame

    at = 0
    try:
        while at < len(data):
            found = read_frame(data, at, max_nbytes=LIMIT)
            assert 0 < found.nbytes <= len(data) - at
            own = decoders()
            own[found.site % len(own)].decode_payload(found.payload, max_nbytes=LIMIT)
            at += found.nbytes
    except StreamError as error:
        assert str(error) and "\n" not in str(error), f"an error of another form: {error!r}"


def bundle(data: bytes) -> None:
    """All frames of a pass with the plan that they name, whole or what is left of them."""
    from tensorpress.core.errors import StreamError
    from tensorpress.planning.bundle import read_bundle

    for recover in (False, True):
        try:
            read_bundle(data, own_plan(), max_nbytes=LIMIT, recover=recover)
        except StreamError as error:
            assert str(error) and "\n" not in str(error), f"an error of another form: {error!r}"


def weights(data: bytes) -> None:
    """A file of weights: its index, and every tensor of every part; what opens is written to the same parts."""
    from tensorpress.core.errors import StreamError
    from tensorpress.planning.weight_file import WeightReader, in_dtype

    try:
        reader = WeightReader(data, max_nbytes=LIMIT)
        arrays = reader.all()
    except StreamError as error:
        assert str(error) and "\n" not in str(error), f"an error of another form: {error!r}"
        return
    assert sum(array.nbytes for name, array in arrays.items()) <= LIMIT * 64, "ties alone may repeat what is counted once"
    for tensor in reader:
        assert arrays[tensor.name].shape == tensor.shape
        if tensor.form is not None:
            assert in_dtype(tensor.form.values(), tensor.dtype).tobytes() == arrays[tensor.name].tobytes()


TARGETS = {"stream": stream, "plan": plan, "frames": frames, "bundle": bundle, "weights": weights}
_decoders: list[Any] = []
_plan: list[Any] = []


def own_plan() -> Any:
    """A plan of every codec of the golden streams that works alone, made once."""
    if not _plan:
        from tensorpress.core.site import Site
        from tensorpress.planning.plan import Entry, Plan

        entries = tuple(Entry(Site(f"layer{n}"), codec, (40, 9, 5)) for n, codec in enumerate(decoders()))
        _plan.append(Plan("features", "a network", entries, {}))
    return _plan[0]


def decoders() -> list[Any]:
    """A codec of each golden stream without a reference, made once."""
    if not _decoders:
        from tensorpress.core import registry

        _decoders.extend(registry.build(s.codec, s.params, s.state) for _, s in golden())
    return _decoders


# --- where inputs come from -----------------------------------------------------------------------------------------------


def golden() -> list[tuple[str, Any]]:
    """(name, stream) of codecs that are ours throughout."""
    from tensorpress.core import registry
    from tensorpress.core.stream import Stream

    found = [(path.stem, Stream.from_bytes(path.read_bytes())) for path in sorted(GOLDEN.glob("v*/*.tp"))]
    return [(name, s) for name, s in found if registry.card(s.codec).stable]


def small(found: Any) -> Any:
    """The same codec and state over a part of the array: all channels, since a model may count them, but few rows and columns."""
    from tensorpress.core import registry

    codec = registry.build(found.codec, found.params, found.state)
    return codec.encode(codec.decode(found)[:, :9, :5])


def seeds(folder: Path) -> None:
    from tensorpress.core import registry
    from tensorpress.core.site import Site
    from tensorpress.core.stream import write_frame
    from tensorpress.planning.plan import Entry, Plan

    for target in TARGETS:
        (folder / target).mkdir(parents=True, exist_ok=True)
    streams = [(name, small(s)) for name, s in golden()]
    for number, (name, s) in enumerate(streams):
        (folder / "stream" / name).write_bytes(s.to_bytes())
        (folder / "frames" / name).write_bytes(write_frame(s.payload, number, 0x12345678))
        entry = Entry(Site("layer1.0.relu", 1, "relu"), registry.build(s.codec, s.params, s.state), (40, 11, 9))
        (folder / "plan" / name).write_bytes(Plan("features", "a network", (entry,), {"quality": 1.0}).to_bytes())
    from tensorpress.planning.bundle import write_bundle

    plan_id = own_plan().id
    framed = [write_frame(s.payload, n, plan_id) for n, (_, s) in enumerate(streams)]
    for number, part in enumerate(framed):
        (folder / "bundle" / f"{number}").write_bytes(write_bundle(own_plan(), [part]))
    for path in sorted(GOLDEN.glob("v*/weights/*.tpw")):
        (folder / "weights" / path.stem).write_bytes(path.read_bytes())
    (folder / "bundle" / "four").write_bytes(write_bundle(own_plan(), framed[::17]))
    both = [registry.build(s.codec, s.params, s.state) for _, s in streams[:3]]
    entries = tuple(Entry(Site(f"layer{n}"), codec, (40, 11, 9)) for n, codec in enumerate(both))
    (folder / "plan" / "three").write_bytes(Plan("features", "a network", entries, {}).to_bytes())
    (folder / "frames" / "three").write_bytes(b"".join(write_frame(s.payload, n, 1) for n, (_, s) in enumerate(streams[:3])))


# --- mutations that keep a file whole --------------------------------------------------------------------------------------


def parts(data: bytes) -> tuple[bytes, bytes, list[tuple[bytes, bytes]]] | None:
    """(magic, header, sections) of a container whatever its checks say."""
    from tensorpress.core.binary import read_varint
    from tensorpress.core.errors import StreamError

    try:
        size, at = read_varint(data, 5, "header")
        header, at = data[at : at + size], at + size
        count, at = read_varint(data, at, "sections")
        table = []
        for _ in range(min(count, 64)):
            length, at = read_varint(data, at, "name")
            name, at = data[at : at + length], at + length
            nbytes, at = read_varint(data, at, "length")
            table.append((name, nbytes))
    except StreamError:
        return None
    at, sections = at + 4, []
    for name, nbytes in table:
        sections.append((name, data[at : at + nbytes]))
        at += nbytes + 4
    return data[:5], header, sections


def joined(magic: bytes, header: bytes, sections: list[tuple[bytes, bytes]]) -> bytes:
    """The container with right checks, whatever its parts are."""
    from tensorpress.core.binary import crc32c, varint
    from tensorpress.core.container import section_seed

    head = magic + varint(len(header)) + header + varint(len(sections)) + b"".join(varint(len(n)) + n + varint(len(d)) for n, d in sections)
    check = crc32c(head)
    body = b"".join(d + struct.pack("<I", crc32c(d, section_seed(check, number))) for number, (_, d) in enumerate(sections))
    return head + struct.pack("<I", check) + body


def promised(target: str, header: bytes, sections: list[tuple[bytes, bytes]]) -> bytes:
    """A header in the form that is written; a stream's with the digest of what it now holds. As it is where that cannot be had."""
    import json

    from tensorpress.core.binary import canonical_json, digest

    try:
        values = json.loads(header)
        if target != "stream":
            return canonical_json(values)
        state = {n.decode().removeprefix("state/"): d for n, d in sections if n.startswith(b"state/")}
        values["shared"] = digest({"codec": values["codec"], "params": values["params"]}, state)
        return canonical_json(values)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return header


def resealed(payload: bytes, rng: random.Random, mutate: Mutate) -> bytes:
    """A payload with a stripe or its head changed, and right sizes and checks."""
    from tensorpress.core.binary import crc32c
    from tensorpress.core.container import section_seed
    from tensorpress.core.errors import StreamError
    from tensorpress.core.payload import Reader

    try:
        src = Reader(payload, max_nbytes=1 << 62)
    except StreamError:
        return mutate(payload)
    head, at, stripes = payload[: src.head_nbytes], src.index_nbytes, []
    for nbytes in src.lengths.tolist():
        stripes.append(payload[at : at + nbytes])
        at += nbytes
    kind = rng.random()
    if kind < 0.2 or not stripes:
        head = bytearray(head)
        head[rng.randrange(len(head))] = rng.choice([0, 1, 2, 3, 5, 8, 40, rng.randrange(128)])
        head = bytes(head)
    elif kind < 0.25:
        stripes[rng.randrange(len(stripes))] = b""
    elif kind < 0.3:
        rng.shuffle(stripes)
    else:
        number = rng.randrange(len(stripes))
        stripes[number] = mutate(stripes[number])
    seed = crc32c(head)
    return head + b"".join(struct.pack("<II", len(s), crc32c(s, section_seed(seed, i))) for i, s in enumerate(stripes)) + b"".join(stripes)


NUMBERS = [0, 1, -1, 2, 7, 8, 255, 256, 65535, 65536, 2**31, 2**32, 2**63, -(2**63), 2**64, 1e-320, 1e-30, 0.5, 1e30, 1e300, -0.0, 10**30, 10**400]


def other_value(value: Any, rng: random.Random, deep: int = 0) -> Any:
    """A JSON value like this one, somewhere changed."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        if rng.random() < 0.05:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: other_value(value[key], rng, deep + 1)}
    if isinstance(value, list) and value and rng.random() < 0.85:
        at = rng.randrange(len(value))
        kind = rng.random()
        if kind < 0.15:
            return value[:at] + value[at + 1 :]
        if kind < 0.25:
            return value + value[:at]
        return [*value[:at], other_value(value[at], rng, deep + 1), *value[at + 1 :]]
    if isinstance(value, bool) or value is None or rng.random() < 0.2:
        return rng.choice([None, True, False, "", "dct", "paper", "fixed", "fast", "max", [], [1], [0] * 9, {}, {"a": 1}, rng.choice(NUMBERS)])
    if isinstance(value, int):
        return rng.choice([value + 1, value - 1, value * 2, -value, rng.choice(NUMBERS), rng.randrange(300)])
    if isinstance(value, float):
        return rng.choice([value * 1.5, -value, value + 1, float(rng.randrange(200)), rng.choice(NUMBERS)])
    if isinstance(value, str):
        from tensorpress.core import registry

        return rng.choice([value[:-1], value + "x", "\ud800" if rng.random() < 0.05 else "ü", rng.choice(sorted(registry.cards()))])
    return rng.choice(NUMBERS)


def other_header(header: bytes, rng: random.Random, mutate: Mutate) -> bytes:
    import json

    if rng.random() < 0.15:
        return mutate(header)
    try:
        values = json.loads(header)
    except (ValueError, RecursionError):
        return mutate(header)
    if isinstance(values, dict) and rng.random() < 0.7:  # what matters most
        for key in ("params", "entries"):
            if key in values:
                return json.dumps({**values, key: other_value(values[key], rng)}).encode()
    return json.dumps(other_value(values, rng)).encode()


def mutated(target: str, data: bytes, rng: random.Random, mutate: Mutate) -> bytes:
    """One mutation: of the bytes as they are, or of a part, with checks made right."""
    if rng.random() < 0.5:
        return mutate(data)
    if target == "frames":
        return other_frame(data, rng, mutate)
    found_parts = parts(data)
    if found_parts is None:
        return mutate(data)
    magic, header, sections = found_parts
    kind = rng.random()
    if kind < 0.4 or not sections:
        header = other_header(header, rng, mutate)
    elif kind < 0.45:
        rng.shuffle(sections)
    elif kind < 0.5:
        sections.append(rng.choice(sections)) if rng.random() < 0.5 else sections.pop()
    else:
        number = rng.randrange(len(sections))
        name, body = sections[number]
        change = {b"payload": resealed, b"frames": other_frame, b"index": other_index}.get(name, other_state)
        sections[number] = (name, change(body, rng, mutate))
    return joined(magic, promised(target, header, sections), sections)


def other_index(data: bytes, rng: random.Random, mutate: Mutate) -> bytes:
    """The index of a file of weights with other names, shapes or forms, deflated again."""
    import json
    import zlib

    from tensorpress.core.binary import canonical_json

    try:
        values = other_value(json.loads(zlib.decompress(data, -15)), rng)
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        return packer.compress(canonical_json(values)) + packer.flush()
    except (ValueError, TypeError, zlib.error, RecursionError):
        return mutate(data)


def other_frame(data: bytes, rng: random.Random, mutate: Mutate) -> bytes:
    """Frames, the first of which has another site or payload, with right checks; or comes twice."""
    from tensorpress.core.errors import StreamError
    from tensorpress.core.payload import Reader
    from tensorpress.core.stream import read_frame, write_frame

    try:
        found = read_frame(data, max_nbytes=1 << 62)
        payload = resealed(bytes(found.payload), rng, mutate)
        Reader(payload, max_nbytes=1 << 62)
    except StreamError:
        return mutate(data)
    site = rng.choice([found.site, found.site, rng.randrange(80), rng.randrange(1 << 32)])
    return write_frame(payload, site, found.plan_id) + data[0 if rng.random() < 0.1 else found.nbytes :]


def other_state(body: bytes, rng: random.Random, mutate: Mutate) -> bytes:
    """State with bytes changed; where it is packed, those that it unpacks to."""
    import zlib

    if body[:1] == b"x" and rng.random() < 0.9:
        unpacker = zlib.decompressobj()
        try:
            return zlib.compress(mutate(unpacker.decompress(body, 1 << 20)), 1)
        except zlib.error:
            pass
    return mutate(body)


# --- the program ------------------------------------------------------------------------------------------------------------


def functions() -> Iterator[FunctionType]:
    """Those of this package that are imported by now. (atheris' own import hook passes over packages that are installed to be edited.)"""
    for name, module in list(sys.modules.items()):
        if not name.startswith("tensorpress."):
            continue
        owners = [module, *(v for v in vars(module).values() if isinstance(v, type) and v.__module__ == name)]
        for member in [m for owner in owners for m in vars(owner).values()]:
            if isinstance(member, property):
                member = member.fget
            member = getattr(member, "__func__", getattr(member, "func", member))
            member = getattr(member, "__wrapped__", member)
            if isinstance(member, FunctionType) and member.__module__ == name and member.__code__.co_filename == module.__file__:
                yield member


def fuzz(target: str) -> None:
    import atheris

    import tensorpress.facade
    import tensorpress.planning.bundle  # noqa: F401
    from tensorpress.core import registry

    for card in registry.cards().values():
        if card.stable:
            registry.system(card.id)
    own_plan()
    for function in functions():
        atheris.instrument_func(function)
    import numpy as np

    np.seterr(all="ignore")

    def mutator(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)

        def any_bytes(part: bytes) -> bytes:
            return bytes(atheris.Mutate(part, max(min(2 * len(part) + 16, max_size), 1)))

        return mutated(target, data, rng, any_bytes)[:max_size]

    atheris.Setup(sys.argv, TARGETS[target], custom_mutator=mutator)
    atheris.Fuzz()


def main() -> int:
    words = sys.argv[1:]
    if len(words) == 2 and words[0] == "--seeds":
        seeds(Path(words[1]))
        return 0
    if not words or words[0] not in TARGETS:
        print(__doc__, file=sys.stderr)
        return 2
    if words[1:2] == ["--replay"]:
        for path in words[2:]:
            TARGETS[words[0]](Path(path).read_bytes())
        return 0
    sys.argv = [sys.argv[0], *words[1:]]
    fuzz(words[0])
    return 0


if __name__ == "__main__":
    sys.exit(main())
