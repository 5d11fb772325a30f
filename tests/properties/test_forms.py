"""The same array in every layout, form and buffer is the same bytes; and what comes back is the same from every way in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st

from tensorpress.core import registry
from tensorpress.core.errors import InputError
from tensorpress.core.stream import Stream, read_frame
from tensorpress.facade import decode, encode
from tests.properties.cases import holds
from tests.properties.strategies import EVERY, FLOATS, LAYOUTS, LOSSLESS, arrays, fitted, laid, options, shapes, taken

ANY = st.sampled_from(EVERY)
SMALL = shapes(400, empty=False, least_rank=1)
MODEST = tuple(k for k in ("normal", "relu", "equal", "outlier", "offset", "whole", "spread", "denormal", "small", "any", "extremes"))
ORDERED = [name for name in LAYOUTS if name != "broadcast"]


@holds(150, st.data(), ANY, st.sampled_from(LAYOUTS))
def test_bytes_do_not_depend_on_how_an_array_lies(data: st.DataObject, codec: str, layout: str) -> None:
    x = data.draw(arrays(taken(codec), shapes(1000, empty=False, least_rank=1), MODEST, ["plain"]))
    made = data.draw(fitted(codec, x))
    other = laid(x, layout)
    plain = np.ascontiguousarray(other)
    before = other.tobytes()
    assert bytes(made.encode_payload(other)) == bytes(made.encode_payload(plain))
    assert other.tobytes() == before
    assert made.fit([other]).digest == made.fit([plain]).digest


@holds(100, st.data(), ANY)
def test_forms_hold_one_payload(data: st.DataObject, codec: str) -> None:
    x = data.draw(arrays(taken(codec), shapes(1000, empty=False, least_rank=1), MODEST))
    made = data.draw(fitted(codec, x))
    payload = bytes(made.encode_payload(x))
    stream = made.encode(x).to_bytes()
    assert made.encode(x).to_bytes() == stream  # deterministic
    assert bytes(Stream.from_bytes(stream).payload) == payload == bytes(read_frame(made.encode_frame(x, 3, 5)).payload)
    y = made.decode_payload(payload)
    assert y.dtype == x.dtype and y.shape == x.shape
    assert decode(stream).tobytes() == y.tobytes()
    values, nbytes = made.simulate(x)
    assert np.array_equal(values, y) and nbytes == len(payload)


@holds(60, st.data(), ANY)
def test_the_fused_kernel_equals_the_chain_of_stages(data: st.DataObject, codec: str) -> None:
    x = data.draw(arrays(taken(codec), SMALL, MODEST))
    made = data.draw(fitted(codec, x))
    payload = bytes(made.encode_payload(x))
    assert payload == bytes(made.encode_payload(x, fused=False))
    assert made.decode_payload(payload).tobytes() == made.decode_payload(payload, fused=False).tobytes()


@holds(100, st.data(), ANY, st.integers(0, 40), st.sampled_from(ORDERED))
def test_outputs_hold_the_same_and_nothing_behind_them_is_asked_for(data: st.DataObject, codec: str, spare: int, layout: str) -> None:
    x = data.draw(arrays(taken(codec), shapes(1000, empty=False, least_rank=1), MODEST))
    made = data.draw(fitted(codec, x))
    payload = bytes(made.encode_payload(x))
    room = made.max_encoded_nbytes(x.dtype, x.shape)
    assert room is None or room >= len(payload)
    out = np.full((room or len(payload)) + spare, 0xAB, np.uint8)
    found = made.encode_payload(x, out=out)
    assert bytes(found) == payload and np.may_share_memory(np.frombuffer(found, np.uint8), out)
    if room is not None:
        framed = np.empty(room + spare, np.uint8)
        assert bytes(read_frame(made.encode_frame(x, 1, 2, framed)).payload) == payload
    short = np.empty(len(payload) - 1, np.uint8)
    with pytest.raises(InputError, match="output"):
        made.encode_payload(x, out=short)
    target = laid(np.ones(x.shape, x.dtype), layout)
    if not target.flags.writeable:
        with pytest.raises(InputError, match="read-only"):
            made.decode_payload(payload, out=target)
        return
    assert made.decode_payload(payload, out=target) is target
    assert target.tobytes() == made.decode_payload(payload).tobytes()


@holds(80, st.data(), st.sampled_from(LOSSLESS))
def test_what_was_decoded_codes_to_itself(data: st.DataObject, codec: str) -> None:
    """True where levels are kept (step 1, 256 levels); a coarser step may move a value once more."""
    x = data.draw(arrays(taken(codec), shapes(1000, empty=False, least_rank=1), MODEST))
    made = data.draw(fitted(codec, x, exact=True))
    once = made.decode(made.encode(x))
    again = made.encode_payload(once)
    assert np.array_equal(made.decode_payload(again), once)


@holds(60, st.data(), ANY)
def test_other_byte_orders_are_refused(data: st.DataObject, codec: str) -> None:
    x = data.draw(arrays([d for d in taken(codec) if d.itemsize > 1], SMALL, MODEST, ["plain"]))
    made = data.draw(fitted(codec, x))
    with pytest.raises(InputError):
        made.encode_payload(x.astype(x.dtype.newbyteorder(">")))
    with pytest.raises(InputError):
        encode(x.astype(x.dtype.newbyteorder(">")), codec)


@holds(60, st.data(), ANY, st.sampled_from((np.nan, np.inf, -np.inf)))
def test_what_is_no_number_is_refused(data: st.DataObject, codec: str, bad: float) -> None:
    x = data.draw(arrays(FLOATS, SMALL, MODEST, ["plain"])).copy()
    made = data.draw(fitted(codec, x))
    x.reshape(-1)[data.draw(st.integers(0, x.size - 1))] = bad
    for fused in (True, False):
        with pytest.raises(InputError, match=r"finite|NaN"):
            made.encode_payload(x, fused=fused)
    with pytest.raises(InputError, match=r"finite|NaN"):
        registry.build(codec, data.draw(options(codec))).fit([x])


@holds(60, st.data(), ANY)
def test_types_a_codec_does_not_take_are_refused(data: st.DataObject, codec: str) -> None:
    x = data.draw(arrays(shape=SMALL))
    if x.dtype in taken(codec):
        assert decode(encode(x, codec)).dtype == x.dtype
        return
    with pytest.raises(InputError, match="raw"):
        encode(x, codec)


@holds(60, st.data())
def test_numcodecs_gives_back_what_the_codec_does(data: st.DataObject) -> None:
    pytest.importorskip("numcodecs")
    from tensorpress.numcodec import TensorPress

    codec = data.draw(ANY)
    x = data.draw(arrays(taken(codec), shapes(1000, empty=False, least_rank=1), MODEST))
    chosen = data.draw(options(codec))
    made = registry.build(codec, chosen).fit([x])
    for wrapper in (TensorPress(codec, chosen), TensorPress.of(made)):
        again = TensorPress.from_config({k: v for k, v in wrapper.get_config().items() if k != "id"})
        found = again.decode(wrapper.encode(x))
        assert found.dtype == x.dtype and found.tobytes() == made.decode(made.encode(x)).tobytes()
