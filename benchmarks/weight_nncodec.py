"""What NNCodec (ISO/IEC 15938-17) makes of a network: run by weight_anchors.py in a Python that has nncodec; nothing else imports it.

    PYTHONPATH=src OTHER/bin/python benchmarks/weight_nncodec.py job.json

The job names a network, its weights, settings and calibration inputs. Each bit stream is decoded again, and the tensors go to a
safetensors file; a line '@ {...}' on the output tells bytes and seconds, or the error. Its tools:

    opt_qp   steps by a layer's share of all weights and by their deviation; no data
    bnf      batch norms folded into a scale and a bias of each layer; no data
    lsa      such scales trained (Adam) on labelled calibration inputs, the rest as it is after quantisation
    ioq      steps of each tensor tried four finer and four coarser, kept where accuracy on labelled calibration inputs pays for bytes

What does not work as it is: nn.encode has no value for its argument ioq, and asks for torchvision, pandas and others that none of this needs: where they do not
import, an empty module stands in. lsa reads PyTorch's version as three integers, which '2.13.0+cpu' is not: it is told '2.13.0'.
lsa and ioq get their inputs by an executer of nncodec's own class, since its data loaders know only folders of named data
sets; nncodec's own decoder does not put folded norms back, so this does.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import json
import sys
import time
import traceback
import types
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, ClassVar

import safetensors.torch
import torch
import weight_subjects
from torch import Tensor, nn

UNNEEDED = ("torchvision", "ptflops", "torchmetrics", "pandas", "cv2", "h5py", "flwr", "wandb", "tqdm", "sklearn")
VALIDATION = 256  # calibration inputs that lsa does not train on, and that it and ioq measure accuracy on
BATCH = 64
EPOCHS, RATE = 5, 1e-3  # of lsa
SCALING, SHIFT = "_scaling", ".weight.bias"  # what nncodec's names of a layer's scales, and of its folded shift, end in
EPSILON = 1e-5  # of the norms, which the folded scale holds already


class Absent(types.ModuleType):
    """Stands in for a module that is imported and never used here."""

    __path__: ClassVar[list[str]] = []  # what makes it a package

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return absent(f"{self.__name__}.{name}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self

    def __mro_entries__(self, bases: Any) -> tuple[type, ...]:
        return (object,)


def absent(name: str) -> Absent:
    module = Absent(name)
    module.__spec__ = ModuleSpec(name, None)
    sys.modules[name] = module
    return module


def stand_in() -> list[str]:
    """Names of packages that do not import here."""
    gone = []
    for name in UNNEEDED:
        try:
            importlib.import_module(name)
        except Exception:  # torchvision fails with whatever its binary meets
            for found in [key for key in sys.modules if key.partition(".")[0] == name]:
                del sys.modules[found]
            absent(name)
            gone.append(name)
    return gone


def executer(model: nn.Module, calibration: Mapping[str, Tensor], lsa: bool) -> Any:
    from nncodec.framework.applications.utils import evaluation, train
    from nncodec.framework.pytorch_model import ImageClassificationPytorchModelExecuter
    from nncodec.framework.use_case_init import ModelSetting

    setting = ModelSetting(None, evaluation.evaluate_classification_model, train.train_classification_model, None, nn.CrossEntropyLoss())
    batches = list(zip(calibration["inputs"].split(BATCH), calibration["labels"].split(BATCH)))
    last = VALIDATION // BATCH
    tuned, judged = batches[:-last], batches[-last:]
    return ImageClassificationPytorchModelExecuter(setting, tuned, judged, judged, judged, judged, model, lsa, epochs=EPOCHS, lr=RATE)


def encode(network: nn.Module, run: Mapping[str, Any], calibration: Mapping[str, Tensor] | None, folder: Path) -> tuple[bytes, Any]:
    """The bit stream, and what its decoder has to know about names of layers where a tool renames tensors."""
    from nncodec import nn as coder
    from nncodec import nnc

    tools = run["tools"]
    settings = {"qp": run["qp"], "opt_qp": "opt_qp" in tools, "bnf": "bnf" in tools, "lsa": "lsa" in tools, "ioq": "ioq" in tools}
    if len(weight_subjects.state_of(network)) < len([k for k in network.state_dict() if not k.endswith("num_batches_tracked")]):
        tensors = {key: value.numpy() for key, value in weight_subjects.state_of(network).items()}  # a tied tensor is not coded twice
        return coder.encode(tensors, {**settings, "results": str(folder), "verbose": False}), None
    if not {"lsa", "ioq", "bnf"} & set(tools):
        return coder.encode(network, {**settings, "results": str(folder), "verbose": False}), None
    data = executer(network, calibration, settings["lsa"]) if calibration is not None else None
    subject = data.model if settings["lsa"] and data is not None else network
    stream, layers = nnc.compress_model(
        subject, bitstream_path=str(folder / "stream.nnc"), model_executer=data, row_skipping=True, return_model_data=True, return_bitstream=True, verbose=False, **settings,
    )  # fmt: skip
    return stream, layers


def decode(stream: bytes, layers: Any) -> dict[str, Tensor]:
    """Tensors under the network's names: trained or folded scales go back into the weights, folded norms become plain shifts."""
    from nncodec import nnc

    found = {key: torch.from_numpy(value).float() for key, value in nnc.decompress(bytearray(stream)).items()}
    for key in [key for key in found if key.endswith(SCALING)]:
        weight = key.removesuffix(SCALING)
        found[weight] *= found.pop(key).reshape(-1, *[1] * (found[weight].ndim - 1))
    kinds, blocks = (layers or {}).get("parameter_type", {}), (layers or {}).get("block_identifier", {})
    for key in [key for key in found if key.endswith(SHIFT)]:
        shift, block = found.pop(key), blocks[key.removesuffix(".bias")]
        plain = {"bn.beta": shift, "bn.gamma": torch.ones_like(shift), "bn.mean": torch.zeros_like(shift), "bn.var": torch.full_like(shift, 1 - EPSILON)}
        found |= {name: plain[kinds[name]] for name, own in blocks.items() if own == block and kinds.get(name) in plain}
    return found


def coded(network: nn.Module, run: Mapping[str, Any], calibration: Mapping[str, Tensor] | None, folder: Path, out: Path) -> dict[str, Any]:
    started = time.perf_counter()
    stream, layers = encode(copy.deepcopy(network), run, calibration, folder)
    encoded = time.perf_counter()
    state = decode(stream, layers)
    finished = time.perf_counter()
    own = weight_subjects.state_of(network)
    state = {key: state[key].reshape(value.shape).clone() for key, value in own.items()}
    safetensors.torch.save_file(state, out)
    return {"nbytes": len(stream), "encode_seconds": round(encoded - started, 3), "decode_seconds": round(finished - encoded, 3)}


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    gone = stand_in()
    torch.__version__ = torch.__version__.partition("+")[0]
    folder = Path(job["folder"])
    print("@", json.dumps({"absent": gone}), flush=True)
    network = weight_subjects.build(job["network"], Path(job["data"]), Path(job["characters"]) if job["characters"] else None)
    calibration = safetensors.torch.load_file(job["calibration"]) if job["calibration"] else None
    for index, run in enumerate(job["runs"]):
        told: dict[str, Any] = {"index": index}
        chatter = io.StringIO()
        try:
            torch.manual_seed(job["seed"])
            with contextlib.redirect_stdout(chatter):
                told |= coded(network, run, calibration, folder, folder / f"{index}.safetensors")
        except (Exception, SystemExit) as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            told["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]} (in {place.name}, {Path(place.filename).name} line {place.lineno})"
        print("@", json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
