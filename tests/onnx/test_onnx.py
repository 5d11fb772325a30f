"""ONNX networks: which tensors are sites, that their sizes are those of real streams, and that odd files end in one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tensorpress import cli
from tensorpress.core import registry
from tensorpress.core.errors import InputError
from tensorpress.core.stream import write_frame

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from tensorpress.onnx.graph import find_sites, load  # noqa: E402
from tensorpress.onnx.profile import feeds_of_arrays, open_network, profile  # noqa: E402

OPSET = [helper.make_opsetid("", 17), helper.make_opsetid("com.acme", 1)]


def weight(name: str, *shape: int, seed: int = 0):
    rng = np.random.default_rng([seed, len(name), *shape])
    return numpy_helper.from_array(
        (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) if len(shape) > 1 else 4)).astype(np.float32), name
    )


def model(nodes: list, shape=("n", 3, 16, 16), output: str = "y", constants: tuple = (), inputs: dict | None = None):
    feeds = [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in (inputs or {"x": shape}).items()]
    graph = helper.make_graph(nodes, "net", feeds, [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)], list(constants))
    return helper.make_model(graph, opset_imports=OPSET, ir_version=9)


def node(op: str, inputs: str, output: str, **attributes):
    return helper.make_node(op, inputs.split(), [output], name=f"n_{output}", **attributes)


WEIGHTS = (weight("w1", 16, 3, 3, 3), weight("w2", 16, 16, 3, 3), weight("w3", 10, 32), numpy_helper.from_array(np.float32(0.1), "tenth"))


def residual():
    """conv relu, conv + skip relu, SiLU beside it, concatenation, pooling, logits."""
    return model(
        [
            node("Conv", "x w1", "c1", pads=[1, 1, 1, 1]),
            node("Relu", "c1", "r1"),
            node("Conv", "r1 w2", "c2", pads=[1, 1, 1, 1]),
            node("Add", "c2 r1", "s"),
            node("Relu", "s", "r2"),
            node("Conv", "r2 w2", "c3", pads=[1, 1, 1, 1]),
            node("Sigmoid", "c3", "gate"),
            node("Mul", "c3 gate", "silu"),
            node("Concat", "silu r1", "both", axis=1),
            node("GlobalAveragePool", "both", "p"),
            node("Flatten", "p", "f"),
            node("Gemm", "f w3", "y", transB=1),
        ],
        constants=WEIGHTS,
    )


@pytest.fixture
def file(tmp_path):
    def write(proto, name: str = "net.onnx") -> Path:
        path = tmp_path / name
        onnx.save(proto, str(path))
        return path

    return write


@pytest.fixture
def call(monkeypatch, capsys):
    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tensorpress", "features", "profile", *map(str, words)])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return run


def test_sites_are_what_an_accelerator_would_store():
    sites = find_sites(residual())
    assert [(s.tensor, s.op, s.before) for s in sites] == [("r1", "Relu", "c1"), ("r2", "Relu", "s"), ("silu", "Sigmoid*x", "c3")]
    linear = model(
        [
            node("Conv", "x w1", "c1"),
            node("Mul", "c1 tenth", "scaled"),
            node("Add", "scaled tenth", "moved"),
            node("Conv", "moved w2", "c2"),
            node("HardSigmoid", "c2", "h"),
            node("Mul", "h c2", "swish"),
            node("Add", "swish moved2", "sum"),
            node("Clip", "sum low high", "capped"),
            node("ReduceMean", "capped", "y", axes=[2, 3]),
        ],
        constants=(
            *WEIGHTS,
            numpy_helper.from_array(np.float32(0), "low"),
            numpy_helper.from_array(np.float32(6), "high"),
            weight("moved2", 1, 16, 12, 12),
        ),
    )
    # a bottleneck behind scale and shift; an activation whose sum with a constant goes on; the last Clip reaches the output alone
    assert [(s.tensor, s.op) for s in find_sites(linear)] == [("moved", "Conv"), ("swish", "HardSigmoid*x")]


def test_two_readers_force_a_sum_to_be_stored():
    net = model(
        [
            node("Conv", "x w1", "a"),
            node("Relu", "a", "r"),
            node("Conv", "r w2", "b"),
            node("Relu", "b", "q"),
            node("Conv", "b w2", "c"),
            node("MatMul", "q c", "y"),
        ],
        constants=WEIGHTS,
    )
    assert [s.tensor for s in find_sites(net)] == ["r", "b", "q", "c"]


def test_sizes_are_those_of_real_streams(file, tmp_path):
    x = np.random.default_rng(0).standard_normal((5, 3, 16, 16)).astype(np.float32)
    network = open_network(file(residual()))
    feeds = feeds_of_arrays(network, x, "x")
    assert len(feeds) == 5
    for codec, options in (("zvc", {}), ("dct_cm", {"step": 3.0}), ("uniform_rans", {}), ("klt", {})):
        row = profile(network, feeds, codec, options, calib=2)
        tap = "input" if codec == "klt" else "output"
        assert (row["inputs"], row["calib_inputs"], row["sites"], row["tap"]) == (3, 2, 3, tap) and not row["fitted_to_itself"]
        maps = [network.run(feed, tap) for feed in feeds]
        nbytes = 0
        for index, layer in enumerate(row["layers"]):
            fitted = registry.build(codec, options).fit([m[index][0] for m in maps[:2]])
            frames = [write_frame(fitted.encode_payload(m[index][0]), index, 1) for m in maps[2:]]
            assert layer["nbytes"] == sum(map(len, frames)) and layer["raw_nbytes"] == 3 * maps[0][index].size
            nbytes += layer["nbytes"]
        assert row["nbytes"] == nbytes and row["ratio"] == row["raw_nbytes"] / nbytes
        assert row["ratio_worst_layer"] == min(x["ratio"] for x in row["layers"])
        assert all(0 < layer["nmse"] < 0.05 for layer in row["layers"])
    r1 = network.run(feeds[0], "output")[0]
    want = np.maximum(network.run(feeds[0], "input")[0], 0)
    assert np.array_equal(r1, want) and (r1 > 0).any()


def test_a_fixed_batch_and_several_inputs(file):
    net = model(
        [node("Add", "a b", "s"), node("Relu", "s", "r"), node("Conv", "r w1", "y")],
        inputs={"a": (2, 3, 8, 8), "b": (2, 3, 8, 8)},
        constants=WEIGHTS,
    )
    network = open_network(file(net))
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal((6, 3, 8, 8)).astype(np.float64) for name in "ab"}
    feeds = feeds_of_arrays(network, arrays, "in.npz")
    assert len(feeds) == 3 and feeds[0]["a"].dtype == np.float32
    row = profile(network, feeds, "raw", calib=1)
    assert row["raw_nbytes"] == 4 * 3 * 64 and row["layers"][0]["shape"] == [3, 8, 8]
    with pytest.raises(InputError, match="inputs are a, b"):
        feeds_of_arrays(network, {"a": arrays["a"]}, "in.npz")
    with pytest.raises(InputError, match="2 inputs"):
        feeds_of_arrays(network, arrays["a"], "in.npy")


def test_tokens_have_their_channels_first(file):
    net = model(
        [node("MatMul", "x w", "h"), node("Tanh", "h", "g"), node("MatMul", "g v", "y")],
        shape=("n", 7, 12),
        constants=(weight("w", 12, 24), weight("v", 24, 12)),
    )
    network = open_network(file(net))
    row = profile(network, feeds_of_arrays(network, np.ones((2, 7, 12), np.float32), "x"), "raw", calib=1)
    assert row["layers"][0]["shape"] == [24, 7]


def test_unknown_operators_are_skipped_by_name(file, call, tmp_path):
    strange = model(
        [
            node("Conv", "x w1", "c1"),
            node("Relu", "c1", "r1"),
            node("Conv", "r1 w2", "c2"),
            node("Relu", "c2", "r2"),
            helper.make_node("Wobble", ["r2"], ["o"], name="wob", domain="com.acme"),
            node("Relu", "o", "r3"),
            node("Conv", "r3 w2", "y"),
        ],
        constants=WEIGHTS,
    )
    code, out, err = call(file(strange), "--codec", "zvc", "--json", tmp_path / "row.json")
    assert code == 0, err
    assert "skipped com.acme.Wobble (wob): unknown operator" in err and "skipped Relu (n_r3): needs 'o'" in err and "noise" in err
    row = json.loads((tmp_path / "row.json").read_text())
    assert [layer["tensor"] for layer in row["layers"]] == ["r1", "r2"] and [s["op"] for s in row["skipped"]] == [
        "com.acme.Wobble",
        "Relu",
        "Conv",
    ]
    assert "r2" in out
    first = model([helper.make_node("Wobble", ["x"], ["o"], domain="com.acme"), node("Relu", "o", "y")])
    code, _, err = call(file(first))
    assert code == 2 and "com.acme.Wobble" in err and err.count("\n") == 1
    invented = model([node("Conv", "x w1", "c1"), node("Relu", "c1", "r1"), node("Frobnicate", "r1", "y")], constants=WEIGHTS)
    code, out, err = call(file(invented), "--codec", "raw")
    assert code == 0 and "skipped Frobnicate" in err and "r1" in out
    contrib = model(
        [node("Conv", "x w1", "c1"), node("Relu", "c1", "r1"), helper.make_node("NoSuchThing", ["r1"], ["y"], domain="com.microsoft")],
        constants=WEIGHTS,
    )
    contrib.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    code, out, err = call(file(contrib), "--codec", "raw")
    assert code == 0 and "skipped com.microsoft.NoSuchThing" in err and "r1" in out


def test_an_integer_tensor_and_branches_are_named(file, call):
    then = helper.make_graph([node("Relu", "r1", "t")], "then", [], [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)])
    other = helper.make_graph([node("Identity", "r1", "e")], "else", [], [helper.make_tensor_value_info("e", TensorProto.FLOAT, None)])
    net = model(
        [
            node("Conv", "x w1", "c1"),
            node("Relu", "c1", "r1"),
            helper.make_node("If", ["yes"], ["y"], name="fork", then_branch=then, else_branch=other),
        ],
        constants=(*WEIGHTS, numpy_helper.from_array(np.array(True), "yes")),
    )
    code, out, err = call(file(net), "--codec", "raw")
    assert code == 0 and "skipped If (fork): its branches are not looked into" in err and "r1" in out
    whole = model(
        [
            node("Cast", "x", "i", to=TensorProto.INT64),
            node("Mul", "i i", "k"),
            node("Add", "i k", "j"),
            node("Cast", "j", "l", to=TensorProto.FLOAT),
            node("Relu", "l", "r"),
            node("Tanh", "l", "t"),
            node("Conv", "r w1", "a"),
            node("Conv", "t w1", "b"),
            node("MatMul", "a b", "y"),
        ],
        constants=WEIGHTS,
    )
    assert [s.tensor for s in find_sites(whole)] == ["j", "r", "t", "a", "b"]
    code, out, err = call(file(whole), "--codec", "raw")
    assert code == 0 and "skipped Add (n_j): its output holds int64" in err and "4 tensors" in out


def test_pictures_and_arrays_from_the_command_line(file, call, tmp_path):
    path = file(residual())
    (tmp_path / "pictures").mkdir()
    rng = np.random.default_rng(1)
    for n in range(6):
        Image.fromarray(rng.integers(0, 256, (20, 18, 3), dtype=np.uint8)).save(tmp_path / "pictures" / f"{n}.png")
    code, out, err = call(path, "--images", tmp_path / "pictures", "--set", "step=2", "--json", tmp_path / "a.json")
    assert (code, err) == (0, "") and "3 tensors, 3 inputs" in out
    row = json.loads((tmp_path / "a.json").read_text())
    assert (
        row["options"] == {"step": 2}
        and row["source"] == "pictures"
        and row["machine"]
        and row["command"].startswith("tensorpress features profile")
    )
    x = rng.standard_normal((8, 3, 16, 16)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x)
    for name in ("x.npy", "x.npz"):
        code, _, err = call(path, "--input", tmp_path / name, "--codec", "zvc", "--json", tmp_path / f"{name}.json")
        assert (code, err) == (0, "")
    rows = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("x.npy", "x.npz")]
    assert rows[0]["nbytes"] == rows[1]["nbytes"] and (rows[0]["inputs"], rows[0]["calib_inputs"]) == (4, 4)
    np.save(tmp_path / "one.npy", x[0])
    code, _, err = call(path, "--input", tmp_path / "one.npy", "--json", tmp_path / "one.json")
    assert code == 0 and "fitted to the very maps" in err and json.loads((tmp_path / "one.json").read_text())["fitted_to_itself"] is True
    last = model(
        [node("Transpose", "x", "t", perm=[0, 3, 1, 2]), node("Conv", "t w1", "c"), node("Relu", "c", "r"), node("Conv", "r w2", "y")],
        shape=(1, 16, 16, 3),
        constants=WEIGHTS,
    )
    code, out, err = call(file(last, "last.onnx"), "--images", tmp_path / "pictures", "--codec", "raw")
    assert (code, err) == (0, "") and "16×14×14" in out


def test_damaged_files_and_other_mistakes(file, call, tmp_path, monkeypatch):
    path = file(residual())
    data = path.read_bytes()

    def refused(*words: object, says: str) -> None:
        code, _, err = call(*words)
        assert code == 2 and says in err and err.count("\n") == 1, err

    for name, content in (
        ("empty", b""),
        ("text", b"hello, this is no network at all"),
        ("cut", data[: len(data) // 2]),
        ("short", data[:40]),
        ("long", data + b"\xff" * 9),
    ):
        (tmp_path / f"{name}.onnx").write_bytes(content)
        refused(tmp_path / f"{name}.onnx", says=f"{name}.onnx")
    refused(tmp_path / "none.onnx", says="no such file")
    refused(tmp_path, says="not a file")
    np.save(tmp_path / "x.npy", np.zeros((4, 3, 9, 9), np.float32))
    refused(path, "--input", tmp_path / "x.npy", says="does not suit input 'x'")
    np.save(tmp_path / "nan.npy", np.full((4, 3, 16, 16), np.nan, np.float32))
    refused(path, "--input", tmp_path / "nan.npy", says="tensor 'r1'")
    np.save(tmp_path / "text.npy", np.zeros((4, 3, 16, 16), "U3"))
    refused(path, "--input", tmp_path / "text.npy", says="numbers are needed")
    refused(path, "--input", tmp_path / "x.npy", "--images", tmp_path, says="not both")
    refused(path, "--images", tmp_path, says="no picture")
    refused(path, "--codec", "zvcc", says="did you mean 'zvc'")
    refused(path, "--set", "stepp=2", says="stepp")
    refused(file(model([node("Conv", "x w1", "y")], constants=WEIGHTS), "plain.onnx"), says="no tensor to compress")
    free = model(
        [node("Conv", "x w1", "c"), node("Relu", "c", "r"), node("Conv", "r w2", "y")], shape=("n", 3, "h", "w"), constants=WEIGHTS
    )
    refused(file(free, "free.onnx"), says="free")
    monkeypatch.setitem(sys.modules, "onnx", None)
    refused(path, says="tensorpress[onnx]")


def test_flipped_bytes_end_in_one_error_or_none(file):
    data = bytearray(file(residual()).read_bytes())
    rng = np.random.default_rng(0)
    refused = 0
    for at in rng.integers(0, min(len(data), 1200), 40):
        damaged = bytearray(data)
        damaged[at] ^= 1 << int(rng.integers(8))
        path = file(residual())
        path.write_bytes(damaged)
        try:
            network = open_network(path)
            network.run(feeds_of_arrays(network, np.zeros((1, 3, 16, 16), np.float32), "x")[0], "output")
        except InputError as error:
            assert "net.onnx" in str(error) or "x:" in str(error)
            refused += 1
    assert refused > 0


def test_load_says_what_is_missing(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load(tmp_path / "x.onnx")


def external(location: str) -> TensorProto:
    tensor = TensorProto(name="w", dims=[4], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def with_external(location: str, place: str):
    """x + w, whose data is in a file: as a constant, in a node, in a branch, in a function, or sparse."""
    tensor, nodes, functions = external(location), [], []
    constant = helper.make_node("Constant", [], ["w"], value=tensor)
    if place == "node":
        nodes = [constant]
    elif place == "branch":
        branch = helper.make_graph([constant], "b", [], [helper.make_tensor_value_info("w", TensorProto.FLOAT, [4])])
        nodes = [helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True)))]
        nodes += [helper.make_node("If", ["yes"], ["w"], then_branch=branch, else_branch=branch)]
    elif place == "function":
        functions = [helper.make_function("com.acme", "F", [], ["w"], [constant], OPSET[:1])]
        nodes = [helper.make_node("F", [], ["w"], domain="com.acme")]
    nodes += [node("Add", "x w", "a"), node("Relu", "a", "r"), node("Neg", "r", "y")]
    made = model(nodes, shape=(1, 4), constants=(tensor,) if place == "constant" else ())
    made.functions.extend(functions)
    if place == "sparse":
        made.graph.sparse_initializer.append(onnx.SparseTensorProto(values=tensor, indices=numpy_helper.from_array(np.arange(4), "i"), dims=[4]))
    return made


@pytest.mark.parametrize("place", ["constant", "node", "branch", "function", "sparse"])
def test_external_data_is_read_from_the_models_own_folder_alone(tmp_path, monkeypatch, place):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in (tmp_path / "secret", folder / "w.bin"):
        file.write_bytes(np.arange(4, dtype=np.float32).tobytes())
    (folder / "link").symlink_to(tmp_path / "secret")
    monkeypatch.chdir(tmp_path)
    path = folder / "m.onnx"
    for location in ("../secret", str(tmp_path / "secret"), "link", "secret", ".", "", "no.bin"):
        path.write_bytes(with_external(location, place).SerializeToString())
        with pytest.raises(InputError, match=r"m\.onnx: data of tensor 'w' is to be in .* no file in the model's folder"):
            open_network(path)
    path.write_bytes(with_external("w.bin", place).SerializeToString())
    if place == "sparse":
        with pytest.raises(InputError, match="external data where none may be"):
            open_network(path)
    elif place in ("constant", "node"):
        (x,) = open_network(path).run({"x": np.ones((1, 4), np.float32)}, "input")
        assert x.tolist() == [[1, 2, 3, 4]]
    elif place == "branch":
        open_network(path)
    else:  # older versions of onnx leave data of functions where it is
        try:
            open_network(path)
        except InputError as error:
            assert "external data where none may be" in str(error)
