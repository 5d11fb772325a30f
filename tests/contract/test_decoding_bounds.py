"""Little bytes that ask for much: every codec's decoder under a limit of address space, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tensorpress.core import payload as payloads
from tensorpress.core.container import PLAN, Container
from tensorpress.planning.plan import Plan
from tests.conftest import feature_map
from tests.contract.test_contract import CARDS, VARIANTS, fitted

resource = pytest.importorskip("resource")

TIMES, BESIDE = 8, 24 << 20  # a decoder takes at most TIMES what the shape declares; BESIDE is for what Python and the codec make once
CHILD = """
import json, resource, sys
import numpy as np
from tensorpress.core import registry
from tensorpress.core.container import PLAN, Container
from tensorpress.core.errors import InputError, StreamError
from tensorpress.core.payload import Writer, stripe_count
from tensorpress.core.stream import Stream
from tensorpress.facade import decode
from tensorpress.planning.plan import Plan
from tests.conftest import feature_map
from tests.contract.test_contract import fitted

name, options, times, beside = json.loads(sys.argv[1])
declared, found, longest = 1 << 22, set(), 0
codecs = [fitted(name, options, feature_map((channels, 16, 16), signed=True)) for channels in (64, 1)]
codecs[0].decode_payload(codecs[0].encode_payload(feature_map((64, 16, 16))))  # what is made once
fillings = [b"", bytes(1), bytes(4), bytes(5), bytes(16), bytes(23), b"\\xff" * 16, b"\\1" * 20, b"\\0\\0\\1\\0" * 4, (1 << 20).to_bytes(4, "little") + b"\\x1f" * 8]
fillings.append(codecs[0].encode_payload(np.zeros((64, 8, 8), np.float32))[-40:])
fillings.append(bytes.fromhex("28b52ffda0") + (1 << 20).to_bytes(4, "little") + bytes.fromhex("0300ff"))  # zstd: 1 MiB, one block, the same byte again and again
fillings.append(bytes.fromhex("28b52ffd88f8") + bytes(8))  # and a window of 2 GiB
size = int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmSize"))) << 10
resource.setrlimit(resource.RLIMIT_AS, (size + times * declared + beside,) * 2)
for codec, channels in zip(codecs, (64, 1)):
    for dtype in ("f4", "f2", "u1", "u8"):
        values = declared // max(np.dtype(dtype).itemsize, 4)
        for shape in [(channels, 8, values // 8 // channels), (channels, 1, values // channels), (values,), (1, 1, values), (4, 2, values // 8), (values // 8, 8, 1), (1,) * 6 + (8, values // 8)]:
            out = Writer(np.dtype(dtype), shape)
            for filling in fillings:
                if stripe_count(shape) != 1:
                    continue
                out._stripes.clear()
                out.stripe(filling)
                payload = out.finish()
                longest = max(longest, len(payload))
                for fused in (True, False):
                    if not fused and (name, options.get("profile")) in (("dct_cm", "fixed"), ("uniform_rans", None), ("dct_cm", None), ("dct_cm", "paper")):
                        continue  # slow twins, cell by cell: those of others are native
                    try:
                        codec.decode_payload(payload, max_nbytes=declared, fused=fused)
                        found.add("array")
                    except StreamError:
                        found.add("refused")
                    except MemoryError as error:
                        sys.exit(f"{shape} of {dtype}, stripe {filling[:8].hex()}…, fused {fused}: {error!r}")
                try:
                    codec.decode_payload(payload, max_nbytes=declared - 1)
                    found.add("over its limit")
                except StreamError:
                    pass
print(json.dumps([sorted(found), longest]))
"""


def run(script: str, *args: object) -> list:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TENSORPRESS_THREADS": "1"}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script, json.dumps(args)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of address space are those of Linux")
@pytest.mark.parametrize("variant", [v for v in VARIANTS if {c.quality for c in CARDS if c.id == v[0]} != set(v[1])], ids=lambda v: f"{v[0]}-{'-'.join(str(x) for x in v[1].values()) or 'default'}")
def test_a_payload_of_a_few_bytes_takes_no_more_than_its_shape_asks_for(variant):
    found, longest = run(CHILD, *variant, TIMES, BESIDE)
    assert set(found) <= {"array", "refused"} and "refused" in found and longest < 200


# --- time, by counted work -------------------------------------------------------------------------------------------


def calls(work: object) -> int:
    """How many functions of Python and of libraries are called: work that does not depend on the machine."""
    count = 0

    def see(frame: object, event: str, arg: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(see)
    try:
        work()  # type: ignore[operator]
    finally:
        sys.setprofile(None)
    return count


def grows_linearly(work: object, sizes: tuple[int, ...]) -> None:
    """What each further size costs is the same for each unit: calls(n) = a + b n, to a hundredth."""
    counts = [calls(lambda n=n: work(n)) for n in sizes]  # type: ignore[operator,misc]
    slopes = [(b - a) / (m - n) for a, b, n, m in zip(counts, counts[1:], sizes, sizes[1:])]
    assert max(slopes) <= 1.01 * min(slopes) + 1, (sizes, counts)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: f"{v[0]}-{'-'.join(str(x) for x in v[1].values()) or 'default'}")
def test_calls_grow_with_stripes_and_no_faster(variant):
    codec, made = fitted(*variant, feature_map((4, 16, 5), signed=True)), {}
    for stripes in (8, 32, 128):
        made[stripes] = codec.encode_payload(feature_map((4, 8 * stripes, 5), signed=True))
        codec.decode_payload(made[stripes])
    grows_linearly(lambda n: codec.decode_payload(made[n]), tuple(made))


def test_every_byte_is_hashed_once(monkeypatch):
    hashed = []
    real = payloads.crc32c
    monkeypatch.setattr(payloads, "crc32c", lambda data, seed=0: hashed.append(len(data)) or real(data, seed))
    for stripes in (4, 400):
        codec = fitted("rle", {}, np.zeros((3, 8, 5), np.uint8))
        data = codec.encode_payload(feature_map((3, 8 * stripes, 5)).astype(np.uint8))
        hashed.clear()
        codec.decode_payload(data)
        assert sum(hashed) == len(data) - 8 * stripes  # head and stripes


def test_containers_and_plans_grow_linearly():
    sections = {n: Container(PLAN, {}, {str(i): b"" for i in range(n)}).to_bytes() for n in (100, 1000, 4000)}
    grows_linearly(lambda n: Container.from_bytes(sections[n], PLAN), tuple(sections))
    site = {"path": "a", "call": 0, "what": "relu", "view": "chw", "reads": 1}
    codec = fitted("huffman", {}, np.arange(256, dtype=np.uint8))
    row = {"site": site, "shape": [1], "codec": codec.id, "params": codec.params}
    head = {"family": "features", "model": "", "meta": {}}
    plans = {n: Container(PLAN, {**head, "entries": [row] * n}, {f"{i}/tables": codec.state["tables"] for i in range(n)}).to_bytes() for n in (10, 40, 160)}
    grows_linearly(lambda n: Plan.from_bytes(plans[n]), tuple(plans))
