"""No file of the project unpickles, evaluates strings or asks a shell; and the check sees it where one does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import tensorpress
from tests.safety.code_that_runs import faults

ROOT = Path(__file__).parents[2]
FOLDERS = ("src", "scripts", "benchmarks", "examples", "native", "tests")
# tests that make hostile files have to write what nobody may read
WRITERS = {"tests/test_dumps.py": "imports pickle", "tests/cli/test_cli.py": "allows pickle"}
UNSAID = "numpy.load without allow_pickle=False"  # tests may leave numpy's default unsaid: it is False


def files() -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts)


def test_the_project_runs_nothing_from_elsewhere():
    package = Path(tensorpress.__file__).parent
    found = files() + sorted(package.rglob("*.py"))  # the source, and what is installed
    assert len(found) > 250 and package / "files.py" in found
    told = []
    for path in found:
        name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
        if name == "tests/safety/test_no_pickle.py":
            continue
        known = {WRITERS.get(name), UNSAID if name.startswith("tests/") else None}
        told += [fault for fault in faults(path.read_text(encoding="utf-8"), name) if fault.partition(": ")[2] not in known]
    assert not told, "\n".join(told)


@pytest.mark.parametrize(
    "planted",
    [
        "import pickle",
        "import dill as d",
        "from pickle import loads",
        "from joblib import load",
        "def f():\n    import marshal",
        "import importlib\nimportlib.import_module('pickle')",
        "__import__('shelve')",
        "import torch\ntorch.load('x')",
        "import torch\ntorch.load('x', map_location='cpu', weights_only=False)",
        "import torch as t\nt.load('x')",
        "from torch import load as read\nread('x')",
        "import numpy as np\nnp.load('x')",
        "import numpy\nnumpy.load('x', mmap_mode='r')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import numpy as np\nnp.load('x', allow_pickle=flag)",
        "import numpy as np\nwith np.load('x.npz') as z:\n    pass",
        "import yaml\nyaml.load(text)",
        "eval('1')",
        "exec(text)",
        "x = [eval(t) for t in texts]",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "import os\nos.system('ls')",
        "from os import popen\npopen('ls')",
        "import tempfile\ntempfile.mktemp()",
        "import torch\ntorch.jit.load('x')",
        "read(model, trust_remote_code=True)",
    ],
)
def test_it_is_seen_where_it_stands(planted):
    assert len(faults(planted, "x.py")) == 1 and faults(planted, "x.py")[0].startswith("x.py:")


@pytest.mark.parametrize(
    "harmless",
    [
        "import torch\ntorch.load('x', weights_only=True)",
        "import numpy as np\nnp.load('x', allow_pickle=False)",
        "model.eval()",
        "import json\njson.load(file)",
        "import safetensors.torch\nsafetensors.torch.load(data)",
        "import re\nre.compile('x')",
        "import ast\nast.literal_eval(text)",
        "import subprocess\nsubprocess.run(['ls'])",
        "text = 'import pickle; eval(x)'  # pickle",
    ],
)
def test_what_is_harmless_passes(harmless):
    assert faults(harmless) == []


def test_importing_and_using_the_package_loads_no_library_that_is_an_extra():
    """An extra that is installed is still not imported until a codec or command asks for it."""
    extras = ["blosc2", "lz4", "zstandard", "zfpy", "numcodecs", "zarr", "onnx", "onnxruntime", "plotly", "sklearn", "constriction", "triton"]
    script = f"""
import sys, numpy as np, tensorpress, tensorpress.cli, tensorpress.features, tensorpress.files
x = np.ones((2, 4, 4), np.float32)
tensorpress.decode(tensorpress.encode(x, "dct_cm"))
sys.exit(", ".join(sorted(set({extras}) & set(sys.modules))) or None)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, f"imported: {run.stderr}"
