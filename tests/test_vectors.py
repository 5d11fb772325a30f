"""Golden vectors: what the hex files hold is read back by their description alone and computed again, step by step."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tensorpress import cli
from tensorpress.core import registry
from tensorpress.core.errors import InputError
from tensorpress.vectors import KINDS, pattern, write_vectors

CARDS = [card.id for card in registry.cards().values() if card.family == "features"]


class Vectors:
    """A folder as a test bench reads it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.index = folder, json.loads((folder / "vectors.json").read_text())

    def __getitem__(self, name: str) -> np.ndarray:
        said = self.index["files"][name]
        words = (self.folder / name).read_text().split()
        assert all(len(word) == said["bits"] // 4 for word in words)
        array = np.array([int(word, 16) for word in words], f"u{said['bits'] // 8}")
        return array.view(np.uint8 if said["type"] == "bytes" else said["type"]).reshape(said["shape"])

    def __contains__(self, name: str) -> bool:
        return name in self.index["files"]


@pytest.mark.parametrize("codec", CARDS)
@pytest.mark.parametrize("shape", [None, (40, 12, 9)])
def test_payload_is_that_of_the_input_and_decodes_to_the_output(codec, shape, tmp_path):
    write_vectors(tmp_path, codec, {}, shape=shape)
    v = Vectors(tmp_path)
    on_disk = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.hex")}
    assert on_disk == set(v.index["files"])
    state = {name.removeprefix("state/").removesuffix(".hex"): v[name].tobytes() for name in v.index["files"] if name.startswith("state/")}
    fresh = registry.build(codec, v.index["params"], state)
    assert fresh.digest == v.index["shared"]
    payload = v["payload.hex"].tobytes()
    assert v["input.hex"].dtype == v["output.hex"].dtype == np.float32 and v["input.hex"].shape == (shape or (32, 8, 40))
    assert fresh.encode_payload(v["input.hex"]) == payload and len(payload) == v.index["payload"]["nbytes"]
    got = fresh.decode_payload(payload)
    assert got.view(np.uint32).tolist() == v["output.hex"].view(np.uint32).tolist()
    last = v.index["payload"]["stripes"][-1]
    assert last["at"] + last["nbytes"] == len(payload)


def folded(q: np.ndarray) -> np.ndarray:
    return np.where(q == 0, 0, 2 * np.abs(q) - 1 + (q < 0))


@pytest.mark.parametrize(
    ("options", "shape"), [({}, None), ({"step": 4.0}, None), ({"step": 4.0}, (70, 12, 9)), ({"step": 3.0, "profile": "paper"}, None)]
)
def test_every_word_of_a_cell(options, shape, tmp_path):
    write_vectors(tmp_path, "dct_cm", options, shape=shape, cells=100 if shape else 5)
    v = Vectors(tmp_path)
    rules, params = v.index["rules"], v.index["params"]
    levels = np.clip(np.rint(v["input.hex"] * np.float32(params["reciprocal"])), 0, 255).astype(np.uint8)
    assert np.array_equal(levels, v["levels.hex"]) and params["zero_point"] == rules["zero"] == 0
    symbol_of, level_of = v["rules/symbol_of.hex"], v["rules/level_of.hex"]
    length, seen, stripes = rules["length"], [], {}
    for cell in v.index["cells"]:
        at = tuple(slice(*cell[axis]) for axis in ("channels", "rows", "columns"))
        name = cell["folder"]
        x = v[f"{name}/levels.hex"]
        assert np.array_equal(x, levels[at].reshape(len(x), -1))
        assert np.array_equal(v[f"{name}/zvc_symbols.hex"], symbol_of[x])
        whole = len(x) - len(x) % length if length else 0
        if f"{name}/dct_coefficients.hex" in v:
            matrix, c = v["rules/matrix.hex"], v[f"{name}/dct_coefficients.hex"]
            want = np.concatenate([matrix @ x[g : g + length].astype(np.int32) for g in range(0, whole, length)])
            assert np.array_equal(c, want)
        if f"{name}/dct_symbols.hex" in v:
            k = np.arange(whole) % length
            magnitude = (np.abs(c).astype(np.int64) * v["rules/forward.hex"].astype(np.int64)[k, None] + rules["offset"]) >> 20
            symbols = (
                np.where((k == 0)[:, None], magnitude, folded(np.sign(c) * magnitude))
                * v["rules/keep.hex"][k % len(v["rules/keep.hex"]), None]
            )
            got = v[f"{name}/dct_symbols.hex"]
            assert np.array_equal(got[:whole], symbols) and np.array_equal(got[whole:], symbol_of[x[whole:]])
        stored = v[f"{name}/cell.hex"].tobytes()
        stripes.setdefault(cell["stripe"], []).append(stored)
        best = min(cell["candidates"], key=lambda offer: (offer["cost"], offer["payload_nbytes"]))
        for offer in cell["candidates"]:
            assert offer["cost"] == offer["squared_error"] + rules["lagrangian"] * 8 * (3 + offer["payload_nbytes"])
        assert best["mode"] == cell["mode"] and best["payload_nbytes"] == cell["payload_nbytes"] == len(stored) - 3
        assert stored[0] == ("zero", "raw", "zvc", "dct").index(cell["mode"]) | cell["flags"]
        assert int.from_bytes(stored[1:3], "little") == len(stored) - 3
        decoded = v[f"{name}/output.hex"].reshape(x.shape)
        assert int(((decoded.astype(int) - x) ** 2).sum()) == best["squared_error"]
        values = (v["output.hex"][at] / np.float32(params["scale"])).reshape(x.shape)
        assert np.array_equal(values, decoded)
        if cell["mode"] == "zvc":
            assert np.array_equal(decoded, level_of[symbol_of[x]])
        if f"{name}/plane_codes.hex" in v:
            planes = symbol_of[x] if cell["mode"] == "zvc" else got[v[f"{name}/mask.hex"] == 1]
            codes = v[f"{name}/plane_codes.hex"]
            assert len(codes) == len(planes) and stored[3] == codes[0] | (codes[1] << 4 if len(codes) > 1 else 0)
            if f"{name}/zero_map.hex" not in v:
                for code, plane in zip(codes, planes.astype(int)):
                    top = int(plane.max())
                    assert code == 0 if top == 0 else code in (1 + (top - 1).bit_length(), 10 + top.bit_length() - 3)
        seen.append(cell["mode"])
    payload, parts = v["payload.hex"].tobytes(), v.index["payload"]["stripes"]
    for number, cells in stripes.items():
        assert b"".join(cells) == payload[parts[number]["at"] : parts[number]["at"] + parts[number]["nbytes"]]
    if options.get("step") == 4.0:
        assert {"zero", "zvc", "dct"} <= set(seen)
    elif not options:
        assert {"zero", "zvc", "raw"} <= set(seen)


def test_every_word_of_a_zero_bitmap(tmp_path):
    write_vectors(tmp_path, "zvc", {"step": 2.0}, shape=(20, 19, 7))
    v = Vectors(tmp_path)
    assert np.array_equal(v["words.hex"], v["rules/symbol_of.hex"][v["levels.hex"]])
    payload = v["payload.hex"].tobytes()
    assert len(v.index["stripes"]) == 3
    for number, (stripe, part) in enumerate(zip(v.index["stripes"], v.index["payload"]["stripes"])):
        words = v["words.hex"][:, 8 * number : 8 * number + 8].reshape(-1)
        bitmap, values = v[f"{stripe['folder']}/bitmap.hex"], v[f"{stripe['folder']}/values.hex"]
        assert [bitmap[i // 8] >> i % 8 & 1 for i in range(len(words))] == (words != 0).astype(int).tolist()
        assert np.array_equal(values, words[words != 0])
        data = v[f"{stripe['folder']}/stripe.hex"].tobytes()
        assert data == bitmap.tobytes() + values.tobytes() == payload[part["at"] : part["at"] + part["nbytes"]]
        assert stripe["nonzero"] == len(values) and stripe["values"] == len(words)
    scale = np.float32(v.index["params"]["scale"])
    assert np.array_equal(v["output.hex"], v["rules/level_of.hex"][v["words.hex"]].astype(np.float32) * scale)


def test_the_pattern_is_the_seeds_alone_and_meets_every_kind():
    x = pattern((32, 8, 40), 3)
    assert np.array_equal(x, pattern((32, 8, 40), 3)) and not np.array_equal(x, pattern((32, 8, 40), 4))
    density = [float((x[:, :, 8 * n : 8 * n + 8] > 0).mean()) for n in range(len(KINDS))]
    assert density[0] == 0 and 0.1 < density[1] < 0.4 and density[2] == 1 and density[3] > 0.98 and x.max() == np.float32(255 / 32)


def test_same_call_same_files(tmp_path):
    for name in "ab":
        write_vectors(tmp_path / name, "dct_cm", {"step": 4.0}, cells=2)
    files = [{p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*") if p.is_file()} for n in "ab"]
    assert files[0] == files[1] and len(files[0]) > 12


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"codec_id": "nothing"}, "unknown codec"),
        ({"options": {"stepp": 2}}, "no option"),
        ({"shape": (0, 8, 8)}, "three sizes"),
        ({"shape": (3, 8)}, "three sizes"),
        ({"shape": (4096, 4096, 4096)}, "at most"),
        ({"cells": 0}, "at least 1 cell"),
        ({"seed": -1}, "seed from 0"),
    ],
)
def test_mistakes(arguments, says, tmp_path):
    with pytest.raises(InputError, match=says):
        write_vectors(tmp_path, **{"codec_id": "dct_cm", "options": {}, **arguments})


def test_command(tmp_path, monkeypatch, capsys):
    def call(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["tensorpress", "features", "vectors", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0), capsys.readouterr().err

    assert call("--codec", "dct_cm", "--out", tmp_path / "v", "--cells", 3, "--set", "step=4") == (0, "")
    assert len(Vectors(tmp_path / "v").index["cells"]) == 3
    assert call("--out", tmp_path / "w", "--shape", "3,x")[0] == 2
    (tmp_path / "file").write_text("")
    code, err = call("--out", tmp_path / "file")
    assert code == 2 and "file" in err and err.count("\n") == 1
    code, err = call("--out", tmp_path / "v")
    assert code == 2 and "not empty" in err  # words of an older set must not lie among the new ones
