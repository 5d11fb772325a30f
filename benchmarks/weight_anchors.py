"""What others make of the networks that weight compression is tried on: whole bytes, and what was lost on the same inputs.

    python benchmarks/weight_anchors.py                                           generic tools alone
    python benchmarks/weight_anchors.py --nncodec OTHER/bin/python --torchao ANOTHER/bin/python --characters build/characters.safetensors
    python benchmarks/weight_anchors.py --networks resnet20 --methods nncodec …    rows of these only; others in the file stay

Needs TENSORPRESS_DATA. Rows go to results/weights/anchors.json. NNCodec (pip install nncodec==2.1.3, whose licence grants no patents) and torchao
(pip install torchao==0.18.0) live in environments of their own, with PyTorch; what is not there is left out, and the file says why.

    zstd, xz    of a safetensors file: float32, float16, or int8 with one float32 scale for each output channel and the rest float16
    torchao     files of torch.save after quantize_; only what its configurations take is quantised
    nncodec     bit streams at several qp, without data, and with its tools, two of which see labelled calibration inputs

Figures without a suffix are of the test inputs, those with `_unlabelled` of the second set (see weight_subjects.py).
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import weight_judge
from torch import Tensor
from weight_judge import Judge, clock
from weight_subjects import SUBJECTS

from tensorpress.core.errors import InputError

HERE = Path(__file__).resolve().parent
OUT = weight_judge.ROWS / "anchors.json"
METHODS = ("zstd", "xz", "torchao", "nncodec")
TORCHAO = ("Int8WeightOnlyConfig, linear layers", "Int8WeightOnlyConfig, all layers", "Int4WeightOnlyConfig, linear layers", "IntxWeightOnlyConfig int8, all layers", "IntxWeightOnlyConfig int4, all layers")  # fmt: skip
QP = (-38, -34, -30, -26, -24, -22, -20, -18)
TOOLS = {
    "none": QP, "opt_qp": QP, "bnf": (*QP[3:], -16, -14), "bnf+opt_qp": QP[1:], "lsa": (-22,), "bnf+lsa": (-26, -22, -20, -18, -16, -14),
    "bnf+ioq": (-22, -18),  # minutes each: every tensor is tried eight times
}  # fmt: skip
FEWER = {"none": (-38, -34, -30, -26, -24, -22, -20, -18), "opt_qp": (-34, -30, -26), "bnf": (-24, -22, -20, -18), "bnf+opt_qp": (-30, -26, -22), "bnf+lsa": (-20,)}
LABELLED = {"lsa", "ioq"}
Row = dict[str, Any]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=SUBJECTS, default=list(SUBJECTS), metavar="NAME", help=f"of {', '.join(SUBJECTS)}")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="NAME", help=f"of {', '.join(METHODS)}")
    parser.add_argument("--nncodec", type=Path, metavar="PYTHON", help="a Python that has nncodec")
    parser.add_argument("--torchao", type=Path, metavar="PYTHON", help="a Python that has torchao")
    parser.add_argument("--characters", type=Path, help="weights that scripts/train_characters.py wrote")
    parser.add_argument("--tools", nargs="+", metavar="NAME", help="NNCodec with these sets of tools alone, such as none bnf bnf+lsa")
    parser.add_argument("--out", type=Path, default=OUT, help="(results/weights/anchors.json)")
    parser.add_argument("--seed", type=int, default=0, help="of what NNCodec trains (0)")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    try:
        data = weight_judge.folder(os.environ.get("TENSORPRESS_DATA"))
        for name in options.networks:
            measure(name, data, options)
    except InputError as error:
        sys.exit(f"weight_anchors: {error}")


def measure(name: str, data: Path, options: argparse.Namespace) -> None:
    """All methods on one network; the file is written after each, so that an end in between loses little."""
    if SUBJECTS[name].weights is None and options.characters is None:
        leave_out(options, name, "all", "its weights are not in the data folder: train them by scripts/train_characters.py, give --characters")
        return
    say(f"{name}: reading inputs, running the float network")
    judge = Judge(name, data, options.characters)
    for method in options.methods:
        python = {"nncodec": options.nncodec, "torchao": options.torchao}.get(method)
        if method in ("nncodec", "torchao") and python is None:
            leave_out(options, name, method, f"no Python with it was given by --{method}")
            continue
        if method == "zstd":
            try:
                import zstandard  # noqa: F401
            except ImportError:
                leave_out(options, name, method, "zstandard is not installed: pip install zstandard")
                continue
        rows, left_out = [], []
        found = generic(judge, method) if python is None else elsewhere(judge, method, python, options)
        for row in found:
            if "error" in row:
                left_out.append(row)
                say(f"  {row['method']:22s} {row['setting']}: {row['error']}")
            else:
                rows.append(row)
                say(f"  {row['method']:22s} {row['setting']:36s} {row['nbytes']:>9,} B  agreement {row['agreement']:.4f}  KL {row['kl_unlabelled']:.5f}")
        tools = None if options.tools is None else {"+".join(["nncodec", *t.split("+")]).replace("+none", "") for t in options.tools}
        weight_judge.write(options.out, command(options), rows, left_out, lambda r, m=method, t=tools: r["network"] == name and family(r) == m and (m != "nncodec" or t is None or r["method"] in t))


def family(row: Mapping[str, Any]) -> str:
    return str(row["method"]).partition("+")[0]


def leave_out(options: argparse.Namespace, name: str, method: str, reason: str) -> None:
    """Rows that an earlier run made stay; only where there are none the reason is kept."""
    say(f"{name}: {method} left out: {reason}")
    if not any(row["network"] == name and method in ("all", family(row)) for row in weight_judge.read(options.out)["rows"]):
        fault = {"network": name, "method": method, "setting": "", "error": reason}
        weight_judge.write(options.out, command(options), [], [fault], lambda r: r == fault)


def command(options: argparse.Namespace) -> str:
    return "python benchmarks/weight_anchors.py --nncodec PYTHON --torchao PYTHON --characters build/characters.safetensors"


# --- generic tools -------------------------------------------------------------------------------------------------------


def generic(judge: Judge, method: str) -> Iterator[Row]:
    for kind, make in (("float32", as_float), ("float16", as_half), ("int8 by channel", as_int8)):
        seconds = clock()
        plain, decoded = make(judge.state)
        nbytes = len(packers()[method](plain))
        yield judge.row(judge.with_state(decoded), nbytes, method=method, setting=kind, data="none", retrained=False, plain_nbytes=len(plain), seconds=seconds())


def packers() -> Mapping[str, Callable[[bytes], bytes]]:
    def zstd(data: bytes) -> bytes:
        import zstandard

        return zstandard.ZstdCompressor(level=19).compress(data)

    return {"zstd": zstd, "xz": lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)}


def as_float(state: Mapping[str, Tensor]) -> tuple[bytes, dict[str, Tensor]]:
    return safetensors.torch.save({k: v.contiguous() for k, v in state.items()}), dict(state)


def as_half(state: Mapping[str, Tensor]) -> tuple[bytes, dict[str, Tensor]]:
    half = {key: value.half().contiguous() for key, value in state.items()}
    return safetensors.torch.save(half), {key: value.float() for key, value in half.items()}


def as_int8(state: Mapping[str, Tensor]) -> tuple[bytes, dict[str, Tensor]]:
    """Levels -127 … 127 of each output channel's largest magnitude; tensors of one dimension as float16."""
    kept: dict[str, Tensor] = {}
    decoded = {}
    for key, value in state.items():
        if value.ndim < 2:
            kept[key] = value.half()
            decoded[key] = kept[key].float()
            continue
        scale = value.flatten(1).abs().amax(1).clamp_min(1e-30) / 127
        shaped = scale.view(-1, *[1] * (value.ndim - 1))
        kept[key], kept[f"{key}.scale"] = (value / shaped).round().to(torch.int8), scale
        decoded[key] = kept[key].float() * shaped
    return safetensors.torch.save({key: value.contiguous() for key, value in kept.items()}), decoded


# --- tools in environments of their own ------------------------------------------------------------------------------------


def plan_of(judge: Judge, method: str, wanted: Sequence[str] | None) -> list[dict[str, Any]]:
    """What the other Python is to do."""
    if method == "torchao":
        return [{"setting": setting, "tools": []} for setting in TORCHAO]
    sets = TOOLS if judge.name == "resnet20" else FEWER
    if not any(key.endswith("running_var") for key in judge.state):  # no batch norm is there to fold
        sets = {tools: qps for tools, qps in sets.items() if "bnf" not in tools}
    if not judge.name.startswith("resnet"):
        sets = {tools: qps for tools, qps in sets.items() if not LABELLED & set(tools.split("+"))}
    return [{"qp": qp, "tools": [] if tools == "none" else tools.split("+"), "setting": f"qp {qp}"} for tools, qps in sets.items() if wanted is None or tools in wanted for qp in qps]


def elsewhere(judge: Judge, method: str, python: Path, options: argparse.Namespace) -> Iterator[Row]:
    runs = plan_of(judge, method, options.tools)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        job = {"network": judge.name, "data": str(judge.data), "characters": str(options.characters or ""), "folder": place, "seed": options.seed, "runs": runs}
        job["calibration"] = str(folder / "calibration.safetensors") if any(LABELLED & set(run["tools"]) for run in runs) else ""
        if job["calibration"]:
            safetensors.torch.save_file({"inputs": judge.inputs.calibration.contiguous(), "labels": judge.inputs.calibration_labels}, job["calibration"])
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        seconds = clock()
        for told in answers(python, HERE / f"weight_{method}.py", folder / "job.json"):
            if "index" not in told:
                continue
            run = runs[told["index"]]
            labelled = LABELLED & set(run["tools"])
            facts = {"method": "+".join([method, *run["tools"]]), "setting": run["setting"]}
            if "error" in told:
                yield {"network": judge.name, **facts, "error": told["error"]}
                continue
            path = folder / f"{told['index']}.safetensors"
            model = judge.with_state(safetensors.torch.load_file(path))
            path.unlink()
            facts |= {"data": f"{len(judge.inputs.calibration)} labelled calibration inputs" if labelled else "none", "retrained": "scales alone" if "lsa" in labelled else False}
            facts |= {key: value for key, value in told.items() if key not in ("index", "nbytes")}
            yield judge.row(model, told["nbytes"], **facts, seconds=seconds())
            seconds = clock()


def answers(python: Path, script: Path, job: Path) -> Iterator[dict[str, Any]]:
    """What the other Python says, line by line. InputError where it does not start or ends with an error."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent / "src"), "PYTHONWARNINGS": "ignore"}
    log = job.with_suffix(".log")
    try:
        with log.open("w", encoding="utf-8") as errors, subprocess.Popen([str(python), str(script), str(job)], stdout=subprocess.PIPE, stderr=errors, text=True, env=environment) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("@ "):
                    yield json.loads(line[2:])
    except OSError as error:
        raise InputError(f"{python}: does not start: {error}") from error
    if process.returncode:
        last = [line for line in log.read_text(encoding="utf-8").splitlines() if line.strip()][-1:]
        raise InputError(f"{python} {script.name} ended with {process.returncode}: {' '.join(last)[:300]}")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
