"""The same bits everywhere: threads, instruction sets, float states of the caller, types of equal values, layouts, mkldnn.

What is promised is about coding with a given state: `tests/contract/parcel.py` packs streams of every card and variant, and another process, which
fits nothing, gives their values and writes their bytes. A network's own floats may differ with mkldnn; what was written then decodes alike.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tensorpress.core import registry
from tensorpress.core.errors import InputError
from tensorpress.core.payload import Reader
from tensorpress.core.stream import Stream
from tensorpress.core.threads import threads
from tests.conftest import feature_map
from tests.contract import parcel
from tests.contract.test_contract import MAPS, VARIANTS

ROOT = Path(__file__).parents[2]
FLUSH = {"x86_64": (28, 0x8040), "aarch64": (0, 1 << 24)}  # where the C library's fenv_t holds the word, and the bits that flush denormals
STATES = ["flush", "upward", "downward", "toward zero"]
DENORMAL = {"scale": 1.0625e-38, "reciprocal": 9.4e37}  # of levels: the first is below float32's normal range
# sets the state of the thread, then does what it is asked to; floats are seen to be otherwise before and afterwards
IN_STATE = """
import ctypes, sys
from pathlib import Path
from tests.contract import parcel, test_same_bits
import numpy as np
state, folder = sys.argv[1], Path(sys.argv[2])
tiny, one = np.float32(1e-30), np.float32(1)
def seen():
    return [float(tiny * np.float32(1e-10)), float(one + tiny), float(-one - tiny), float(one - tiny)]
usual = seen()
test_same_bits.set_float_state(state)
found = seen()
assert found != usual, "the state cannot be set"
for fused in (True, False):
    print(parcel.check(parcel.packed(folder), fused=fused)["bytes"], parcel.check(parcel.golden(), fused=fused)["values"])
print(test_same_bits.denormals())
assert seen() == found, "the state was not put back"
"""


def set_float_state(state: str) -> None:
    """Of this thread, as a program that uses TensorPress might: denormals flushed, or rounding otherwise than to nearest."""
    libm = ctypes.CDLL(ctypes.util.find_library("m") or "libm.so.6")
    if state == "flush":
        at, bits = FLUSH[platform.machine()]
        environment = (ctypes.c_uint8 * 64)()
        libm.fegetenv(environment)
        word = ctypes.c_uint32.from_buffer(environment, at)
        word.value |= bits
        assert libm.fesetenv(environment) == 0
    else:
        known = {"x86_64": {"upward": 0x800, "downward": 0x400, "toward zero": 0xC00}, "aarch64": {"upward": 1 << 22, "downward": 2 << 22, "toward zero": 3 << 22}}
        assert libm.fesetround(known[platform.machine()][state]) == 0


def denormals() -> str:
    """What becomes of values below the normal range: bytes and values, in hexadecimal."""
    codec = registry.build("zvc", DENORMAL)
    x = (np.arange(64, dtype=np.uint32) << 17).view(np.float32).reshape(4, 4, 4)  # from 0 to the first normal number
    payload = codec.encode_payload(x)
    values = codec.decode_payload(payload)
    assert np.count_nonzero(values.view(np.uint32)) > 16 and values.view(np.uint32).max() < 1 << 23  # looked at as integers, which no state changes
    return bytes(payload).hex() + values.tobytes().hex()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    assert parcel.pack(folder, VARIANTS, large=False) > 6 * len(VARIANTS)  # floats of three types and three shapes, at least
    return folder


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    assert parcel.pack(folder, VARIANTS, large=True) == len(VARIANTS)
    return folder


def child(*arguments: str | Path, **environment: str) -> str:
    run = subprocess.run([sys.executable, *arguments], env={**os.environ, **environment}, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_threads_and_instruction_sets(small: Path, large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """{1, 2, 8 threads} x {scalar, AVX2, the widest there is}, and what else a process may differ in: seeds of hashes, locale."""
    monkeypatch.setenv("TENSORPRESS_THREADS", "8")
    assert threads(int(np.prod(parcel.LARGE))) == 8
    found = set()
    for number, isa in enumerate(("scalar", "avx2", "avx512")):
        beside = {"TENSORPRESS_ISA": isa, "PYTHONHASHSEED": str(number), "LC_ALL": ("C", "C.UTF-8", "de_DE.UTF-8")[number]}
        found.add(child("-m", "tests.contract.parcel", "check", large, "--threads", "1,2,8", **beside) + child("-m", "tests.contract.parcel", "check", small, **beside))
    assert len(found) == 1


def test_twins_on_large_maps_and_integers(small: Path, large: Path) -> None:
    for folder in (small, large):
        assert parcel.check(parcel.packed(folder)) == parcel.check(parcel.packed(folder), fused=False)


@pytest.mark.parametrize("state", STATES)
def test_float_state_of_the_caller(small: Path, state: str) -> None:
    if platform.machine() not in FLUSH:
        pytest.skip(f"the float state of {platform.machine()} is not known here")
    found = child("-c", IN_STATE, state, small).split()
    wanted = [parcel.check(parcel.packed(small))["bytes"], parcel.check(parcel.golden())["values"]]
    assert found == [*wanted, *wanted, denormals()]


def test_threads_do_not_inherit_a_float_state(large: Path) -> None:
    """Threads that wait for work are made by the first call, which may come from a thread that flushes denormals or rounds otherwise."""
    if platform.machine() not in FLUSH:
        pytest.skip(f"the float state of {platform.machine()} is not known here")
    script = "from tests.contract import parcel, test_same_bits; test_same_bits.set_float_state('upward'); parcel.main()"
    wanted = json.loads(child("-m", "tests.contract.parcel", "check", large))
    assert json.loads(child("-c", script, "check", large, "--threads", "8")) == wanted


def test_pytorch_flushes_denormals() -> None:
    torch = pytest.importorskip("torch")
    wanted = denormals()
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormals")
    try:
        assert denormals() == wanted
        assert torch.tensor([1e-39]).add(0).item() == 0, "the caller's state was not put back"
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize("variant", MAPS, ids=str)
def test_types_of_equal_values(variant: tuple[str, dict]) -> None:
    """The stripes are equal; heads differ by the code of the type, and so do the checks, whose seed is the head. bfloat16 is coded as float32."""
    x = feature_map((40, 20, 24), signed=True)
    x = ((x.view(np.uint32) >> 16) << 16).view(np.float32)  # 8 bits of significand: bfloat16 holds them, and float16 where they are not small
    x[np.abs(x) < 2.0**-13] = 0
    codec = registry.build(*variant).fit([x])
    stripes = {}
    for dtype in (np.float32, np.float16, np.float64):
        same = x.astype(dtype)
        assert np.array_equal(same.astype(np.float32), x)
        src = Reader(codec.encode_payload(same))
        stripes[np.dtype(dtype).name] = [bytes(src.stripe()) for _ in range(src.stripes)]
    if variant[0] == "zfp":  # keeps float64 in a form of its own
        stripes.pop("float64")
    assert all(found == stripes["float32"] for found in stripes.values())
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(x)
    assert codec.encode_payload(tensor.bfloat16()) == codec.encode_payload(tensor) == codec.encode_payload(x)


def layouts(x: np.ndarray) -> list[np.ndarray]:
    """`x` in other places of memory: from behind along every axis, read-only, transposed, at odd addresses."""
    behind = np.flip(np.flip(x).copy())
    held = x.copy()
    held.setflags(write=False)
    odd = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape)
    assert behind.strides[0] < 0 and behind.strides[-1] < 0 and odd.flags.aligned == (x.itemsize == 1)
    return [behind, held, np.asfortranarray(x), odd, x[:, ::-1].copy()[:, ::-1]]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_layouts(variant: tuple[str, dict], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORPRESS_THREADS", "8")
    for x in (feature_map((64, 40, 56)), np.rint(feature_map((24, 20, 24)) * 20).clip(0, 255).astype(np.uint8)):
        codec = registry.build(*variant)
        try:
            codec = codec.fit([x])
            wanted = codec.encode_payload(x)
        except InputError:
            assert x.dtype == np.uint8
            continue
        for same in layouts(x):
            assert codec.encode_payload(same) == wanted
        values = codec.decode_payload(wanted)
        out = np.flip(np.empty_like(x))
        codec.decode_payload(wanted, out=out)
        assert np.array_equal(out, values)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64], ids=lambda d: d.__name__)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_error_state_of_numpy(variant: tuple[str, dict], dtype: type) -> None:
    """A program may ask NumPy to raise where a float becomes too small or too large; what is cast and clamped here is meant to be."""
    x = feature_map((20, 12, 14), signed=True).astype(dtype)
    x[3:9] *= dtype(1e-3 if dtype == np.float16 else 1e-30)
    x[9:15] *= dtype(1e-300 if dtype == np.float64 else 1)
    codec = registry.build(*variant).fit([x])
    payload = codec.encode_payload(x)
    values = codec.decode_payload(payload)
    with np.errstate(all="raise"):
        assert registry.build(*variant).fit([x]).digest == codec.digest
        for fused in (True, False):
            assert codec.encode_payload(x, fused=fused) == payload
            assert np.array_equal(codec.decode_payload(payload, fused=fused), values)


def test_mkldnn() -> None:
    """Bytes of one tensor are equal with mkldnn on and off; a pass that was written with either decodes to the same values with both."""
    torch = pytest.importorskip("torch")
    from tensorpress import features
    from tensorpress.planning.bundle import read_bundle

    torch.manual_seed(1)
    conv = torch.nn.Conv2d
    model = torch.nn.Sequential(conv(3, 16, 3), torch.nn.ReLU(), conv(16, 24, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(24, 5))
    model.eval()
    images = [torch.randn(1, 3, 24, 24) for _ in range(4)]
    tensor = torch.randn(24, 20, 20)
    plan = features.calibrate(model, images, "dct_cm", quality=2.0)
    bundles, bytes_of_one = [], set()
    for enabled in (True, False):
        with torch.backends.mkldnn.flags(enabled=enabled), torch.no_grad():
            bytes_of_one.add(bytes(registry.build("dct_cm", {"step": 2.0}).fit([tensor.numpy()]).encode_payload(tensor)))
            with plan.attach(model, keep=True) as run:
                model(images[0])
            bundles.append((run.bundle(), [(site, array.copy()) for site, array in read_bundle(run.bundle(), plan)]))
    assert len(bytes_of_one) == 1
    for enabled in (True, False):
        with torch.backends.mkldnn.flags(enabled=enabled):
            for bundle, values in bundles:
                again = read_bundle(bundle, plan)
                assert len(again) == len(values) > 1
                assert all(a[0] == b[0] and np.array_equal(a[1], b[1]) for a, b in zip(again, values))


def test_every_stream_opens_without_its_writer(small: Path) -> None:
    """The digest of what `check` gave is one of real bytes: another value of a stream is seen."""
    name, x, data, values = next(item for item in parcel.packed(small) if item[0].startswith("zvc"))
    with pytest.raises(AssertionError, match="other values"):
        parcel.check(iter([(name, x, data, "0" * 64)]))
    with pytest.raises(AssertionError, match="other bytes"):
        parcel.check(iter([(name, x + 1, data, values)]))
    assert Stream.from_bytes(data).codec == "zvc"
