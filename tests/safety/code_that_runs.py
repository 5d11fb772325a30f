"""What no Python file here may do: run bytes from elsewhere as code. Found in the syntax tree, so that no comment or string counts."""

from __future__ import annotations

import ast
from collections.abc import Iterator

UNPICKLERS = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "pickletools", "jsonpickle", "dbm"}
READERS = {"numpy.load": ("allow_pickle", False), "torch.load": ("weights_only", True)}
FORBIDDEN = {
    "eval": "runs a string",
    "exec": "runs a string",
    "compile": "makes code of a string",
    "builtins.eval": "runs a string",
    "builtins.exec": "runs a string",
    "yaml.load": "makes any object",
    "yaml.unsafe_load": "makes any object",
    "yaml.full_load": "makes any object",
    "os.system": "asks a shell",
    "os.popen": "asks a shell",
    "subprocess.getoutput": "asks a shell",
    "subprocess.getstatusoutput": "asks a shell",
    "tempfile.mktemp": "names a file that another may make first",
    "pandas.read_pickle": "unpickles",
    "torch.hub.load": "runs code from elsewhere",
    "torch.jit.load": "runs the code in a file",
    "torch.utils.cpp_extension.load": "compiles what it is given",
    "onnxruntime.SessionOptions.register_custom_ops_library": "loads a library",
    "numpy.lib.format.read_array": "unpickles unless told",
}


def faults(source: str, name: str = "") -> list[str]:
    """Each forbidden thing in a Python file as 'name:line: reason'."""
    tree = ast.parse(source)
    names = _names(tree)
    return [f"{name}:{getattr(node, 'lineno', 0)}: {reason}" for node in ast.walk(tree) for reason in _reasons(node, names)]


def _names(tree: ast.AST) -> dict[str, str]:
    """What a name stands for: `np` for numpy, `load` for torch.load."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name.split(".")[0]] = alias.name if alias.asname else alias.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return found


def _called(node: ast.AST, names: dict[str, str]) -> str:
    """The full name of what an expression names, such as numpy.load; '' where it is no name."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        owner = _called(node.value, names)
        return f"{owner}.{node.attr}" if owner else ""
    return ""


def _reasons(node: ast.AST, names: dict[str, str]) -> Iterator[str]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
        yield from (f"imports {module}" for module in modules if module.split(".")[0] in UNPICKLERS)
    if isinstance(node, ast.keyword):
        if node.arg == "allow_pickle" and not _is(node.value, False):
            yield "allows pickle"
        if node.arg == "weights_only" and not _is(node.value, True):
            yield "reads more than weights"
        if node.arg == "shell" and not _is(node.value, False):
            yield "asks a shell"
        if node.arg == "trust_remote_code" and not _is(node.value, False):
            yield "runs code from elsewhere"
    if not isinstance(node, ast.Call):
        return
    called = _called(node.func, names)
    if called in FORBIDDEN:
        yield f"{called} {FORBIDDEN[called]}"
    if called in READERS and not any(k.arg == READERS[called][0] for k in node.keywords):
        yield f"{called} without {READERS[called][0]}={READERS[called][1]}"
    if called in ("__import__", "importlib.import_module") and node.args and _is_text(node.args[0], UNPICKLERS):
        yield "imports an unpickler"


def _is(node: ast.AST, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def _is_text(node: ast.AST, words: set[str]) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.split(".")[0] in words
