"""What torchao makes of a network: run by weight_anchors.py in a Python that has torchao; nothing else imports it.

    PYTHONPATH=src OTHER/bin/python benchmarks/weight_torchao.py job.json

Weights alone are quantised, by `quantize_`. The bytes are those of `torch.save(network.state_dict())`, which is how its users keep a
network; nothing is read back from such a file. Dequantised tensors go to a safetensors file, to be judged.
"""

from __future__ import annotations

import copy
import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import weight_subjects
from torch import Tensor, nn


def linear(module: nn.Module, name: str) -> bool:
    return isinstance(module, nn.Linear)


def layers(module: nn.Module, name: str) -> bool:
    return isinstance(module, (nn.Linear, nn.Conv2d))


def settings() -> dict[str, tuple[Callable[[], Any], Callable[[nn.Module, str], bool]]]:
    from torchao import quantization as ao
    from torchao.quantization.granularity import PerAxis

    return {
        "Int8WeightOnlyConfig, linear layers": (ao.Int8WeightOnlyConfig, linear),
        "Int8WeightOnlyConfig, all layers": (ao.Int8WeightOnlyConfig, layers),
        "Int4WeightOnlyConfig, linear layers": (ao.Int4WeightOnlyConfig, linear),
        "IntxWeightOnlyConfig int8, all layers": (lambda: ao.IntxWeightOnlyConfig(weight_dtype=torch.int8, granularity=PerAxis(0)), layers),
        "IntxWeightOnlyConfig int4, all layers": (lambda: ao.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerAxis(0)), layers),
    }


def quantised(network: nn.Module, setting: str, out: Path) -> dict[str, Any]:
    from torchao.quantization import quantize_

    make, chosen = settings()[setting]
    started = time.perf_counter()
    plain = {key: type(value.data) for key, value in weight_subjects.state_of(network).items()}
    quantize_(network, make(), filter_fn=chosen)
    state = network.state_dict()
    kept = io.BytesIO()
    torch.save({key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}, kept)
    changed = [key for key in plain if type(state[key].data) is not plain[key]]
    safetensors.torch.save_file({key: dense(state[key]) for key in plain}, out)
    return {"nbytes": len(kept.getvalue()), "quantised_tensors": len(changed), "encode_seconds": round(time.perf_counter() - started, 3)}


def dense(value: Tensor) -> Tensor:
    whole = value.dequantize() if hasattr(value, "dequantize") and type(value.data) is not Tensor else value
    return whole.detach().float().clone().contiguous()


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    network = weight_subjects.build(job["network"], Path(job["data"]), Path(job["characters"]) if job["characters"] else None)
    for index, run in enumerate(job["runs"]):
        told: dict[str, Any] = {"index": index}
        try:
            told |= quantised(copy.deepcopy(network), run["setting"], Path(job["folder"]) / f"{index}.safetensors")
            if not told["quantised_tensors"]:
                told = {"index": index, "error": "no tensor was quantised"}
        except Exception as error:
            told["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        print("@", json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
