"""Feature maps in numcodecs and zarr: chunks, fitted state in metadata, stores that are cut or damaged."""

from __future__ import annotations

import json
import pickle  # to make what must never be read
import shutil

import numpy as np
import pytest
import torch

from tensorpress.core import registry
from tensorpress.core.errors import InputError, StreamError
from tests.conftest import feature_map

numcodecs = pytest.importorskip("numcodecs")
zarr = pytest.importorskip("zarr")

from tensorpress import dumps  # noqa: E402
from tensorpress.numcodec import Context, TensorPress, Zvc, register  # noqa: E402

register()


@pytest.mark.parametrize("codec", ["zvc", "dct_cm", "context", "uniform_rans"])
def test_config_survives_json_and_arrays_come_back(codec):
    x = feature_map((16, 9, 9))
    whole = (np.abs(x) * 20).clip(0, 255).astype(np.uint8)
    for one in (TensorPress(codec), TensorPress.of(registry.build(codec).fit([whole]))):
        again = numcodecs.get_codec(json.loads(json.dumps(one.get_config())))
        assert again == one
        assert np.array_equal(again.decode(one.encode(whole)), whole)
        out = np.empty_like(whole)
        again.decode(one.encode(whole), out=out)
        assert np.array_equal(out, whole)
    fitted = TensorPress.of(registry.build(codec).fit([x]))
    assert len(fitted.encode(x)) < len(TensorPress(codec).encode(x))  # the state is in the metadata


def test_named_codecs_are_entry_points():
    from importlib.metadata import entry_points

    found = {e.name: e.load() for e in entry_points(group="numcodecs.codecs") if e.name.startswith("tensorpress")}
    assert found["tensorpress_zvc"] is Zvc and found["tensorpress_context"] is Context and found["tensorpress"] is TensorPress
    with pytest.raises(InputError, match="is the codec 'zvc'"):
        Zvc("klt")
    with pytest.raises(InputError, match="step"):
        TensorPress("zvc", {"step": 0.1})


def test_zarr_array(tmp_path):
    x = np.stack([feature_map((8, 10, 10), seed=i) for i in range(3)])
    array = zarr.create_array(str(tmp_path / "a.zarr"), shape=x.shape, chunks=(1, 8, 10, 10), dtype="f4", zarr_format=2, compressors=Zvc())
    array[:] = x
    again = zarr.open_array(str(tmp_path / "a.zarr"), mode="r", zarr_format=2)
    assert np.abs(again[1] - x[1]).max() < x[1].max() / 255
    with pytest.raises(InputError, match="reference"):
        TensorPress.of(registry.build("context").fit([x[0]], [x[0]]))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 3)).eval()


@pytest.fixture(scope="module")
def store(net, tmp_path_factory):
    path = tmp_path_factory.mktemp("dump") / "acts.zarr"
    torch.manual_seed(1)
    images = [torch.rand(1, 3, 20, 20) for _ in range(10)]
    return path, images, dumps.write(path, net, images, "dct_cm", ids=[str(i) for i in range(10)])


def test_dump_gives_every_map_back(net, store):
    path, images, row = store
    assert row["sites"] == 2 and row["images"] == 10 and row["raw_nbytes"] == 10 * (8 * 18 * 18 + 4 * 16 * 16)
    assert row["nbytes"] == sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    opened = dumps.open_dump(path)
    assert opened.sites == ["1:relu", "3:relu"] and opened.facts["ids"][3] == "3"
    with torch.inference_mode():
        for i, x in enumerate(images):
            expected = net[:2](x)[0].numpy()
            assert np.abs(opened["1:relu"][i] - expected).max() <= 0.51 * expected.max() / 200
            assert opened["3:relu"][i - len(images)].shape == (4, 16, 16)
    for bad in (10, -11):
        with pytest.raises(InputError, match="does not exist"):
            opened["1:relu"][bad]
    with pytest.raises(InputError, match="no site"):
        opened["nothing"]


def test_cut_and_damaged_stores_are_told(store, tmp_path, net):
    path, images, _ = store
    cut = tmp_path / "cut.zarr"
    shutil.copytree(path, cut)
    (cut / "000" / "4.0.0.0").unlink()
    chunk = cut / "001" / "2.0.0.0"
    damaged = bytearray(chunk.read_bytes())
    damaged[-1] ^= 1
    chunk.write_bytes(damaged)
    opened = dumps.open_dump(cut)
    with pytest.raises(StreamError, match="site 1:relu, image 4 is missing"):
        opened["1:relu"][4]
    with pytest.raises(StreamError, match="site 3:relu, image 2"):
        opened["3:relu"][2]
    assert opened["3:relu"][3].shape == (4, 16, 16)
    shutil.rmtree(cut / "001")
    with pytest.raises(StreamError, match="cut short"):
        dumps.open_dump(cut)
    with pytest.raises(InputError, match="no folder"):
        dumps.open_dump(tmp_path / "none")
    with pytest.raises(InputError, match="there already"):
        dumps.write(path, net, images)
    with pytest.raises(InputError, match="matches"):
        dumps.write(tmp_path / "x", net, images, sites="layer9*")
    assert not (tmp_path / "x").exists()


class Touch:
    """Unpickled, it makes the file that it names."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


PICKLE = {"id": "pickle", "protocol": 5}
FOREIGN = {
    "object filters": {"dtype": "|O", "filters": [{"id": "vlen-utf8"}, PICKLE], "compressor": None, "fill_value": ""},
    "object compressor": {"dtype": "|O", "filters": [{"id": "vlen-utf8"}], "compressor": PICKLE, "fill_value": ""},
    "filter": {"filters": [PICKLE]},
    "compressor": {"compressor": PICKLE},
    "plain": {"compressor": None},
    "bomb": {"compressor": {"id": "zlib", "level": 1}},
    "unfitted": {"compressor": {"id": "tensorpress", "codec": "zvc"}},
    "type": {"dtype": "<f8"},
    "order": {"order": "F"},
    "wide": {"shape": [10, 1 << 40, 18, 18], "chunks": [1, 1 << 40, 18, 18]},
    "chunks": {"chunks": [10, 8, 18, 18]},
    "flat": {"shape": [], "chunks": []},
    "text": {"shape": ["10", 8, 18, 18]},
    "version": {"zarr_format": 3},
}


@pytest.mark.parametrize("fault", FOREIGN)
def test_a_store_that_names_another_codec_is_refused_before_it_is_made(store, tmp_path, fault, monkeypatch):
    """numcodecs has a codec that unpickles: a store's metadata may ask for it."""
    monkeypatch.setenv("NUMCODECS_ALLOW_UNSAFE_PICKLE_DECODE", "1")
    monkeypatch.setattr("numcodecs.pickles.ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)  # as older versions always did
    bad, touched = tmp_path / "bad.zarr", tmp_path / "touched"
    shutil.copytree(store[0], bad)
    metadata = bad / "000" / ".zarray"
    metadata.write_text(json.dumps({**json.loads(metadata.read_text()), **FOREIGN[fault]}))
    (bad / "000" / "4.0.0.0").write_bytes(pickle.dumps(Touch(touched)))
    with pytest.raises(StreamError, match=r"bad\.zarr: site 1:relu"):
        dumps.open_dump(bad)["1:relu"][4]
    assert not touched.exists()


def test_damaged_metadata_is_a_stream_error(store, tmp_path):
    deep = "[" * 100_000
    for name, text in ((".zattrs", deep), (".zattrs", '{"tensorpress": 5}'), (".zattrs", '{"tensorpress": {"sites": [5]}}'), (".zgroup", "{}"), ("000/.zarray", deep), ("000/.zarray", "[]"), ("000/.zarray", "\xff")):
        bad = tmp_path / "bad.zarr"
        shutil.copytree(store[0], bad)
        (bad / name).write_text(text, encoding="latin-1")
        with pytest.raises(StreamError, match=r"bad\.zarr"):
            dumps.open_dump(bad)
        shutil.rmtree(bad)
    with pytest.raises(StreamError, match="over the limit"):
        dumps.open_dump(store[0], max_nbytes=4 * 8 * 18 * 18 - 1)
    assert len(dumps.open_dump(store[0], max_nbytes=4 * 8 * 18 * 18).sites) == 2


def test_a_copy_of_the_metadata_is_not_believed(store, tmp_path):
    bad = tmp_path / "bad.zarr"
    shutil.copytree(store[0], bad)
    zarr.consolidate_metadata(str(bad), zarr_format=2)
    copy = json.loads((bad / ".zmetadata").read_text())
    copy["metadata"]["000/.zarray"]["compressor"] = None
    (bad / ".zmetadata").write_text(json.dumps(copy))
    assert np.array_equal(dumps.open_dump(bad)["1:relu"][0], dumps.open_dump(store[0])["1:relu"][0])


def test_commands(tmp_path, monkeypatch, capsys):
    import sys

    from tensorpress import cli
    from tensorpress.demo import digits

    images, labels = digits.load("test")
    np.savez(tmp_path / "digits.npz", images=images[:6], labels=labels[:6])

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["tensorpress", *map(str, words)])
        with pytest.raises(SystemExit) as done:
            cli.main()
        return done.value.code, capsys.readouterr().out

    network = "tensorpress.demo.network:load"
    code, out = call("features", "dump", "--model", network, "--images", tmp_path / "digits.npz", "-o", tmp_path / "d.zarr", "--json")
    assert code == 0 and json.loads(out)["images"] == 6
    code, out = call("features", "undump", tmp_path / "d.zarr")
    name = out.split()[0]
    assert code == 0 and len(out.splitlines()) == json.loads(call("features", "dump", "--model", network, "--images", tmp_path / "digits.npz", "-o", tmp_path / "e.zarr", "--json")[1])["sites"]
    assert call("features", "undump", tmp_path / "d.zarr", "--site", name, "-o", tmp_path / "all.npy")[0] == 0
    assert call("features", "undump", tmp_path / "d.zarr", "--site", name, "--image", 5, "-o", tmp_path / "one.npy")[0] == 0
    assert np.array_equal(np.load(tmp_path / "all.npy")[5], np.load(tmp_path / "one.npy"))
    assert call("features", "undump", tmp_path / "d.zarr", "--site", name, "--image", 6, "-o", tmp_path / "two.npy")[0] == 2
