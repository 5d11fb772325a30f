"""The examples of the documents, the README and the public functions run."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tensorpress.facade

ROOT = Path(__file__).parents[1]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.md")), ids=lambda p: p.name)
def test_document(path):
    assert doctest.testfile(str(path), module_relative=False, optionflags=FLAGS).failed == 0


def test_public_functions():
    found = doctest.testmod(tensorpress.facade, optionflags=FLAGS)
    assert found.attempted >= 3 and found.failed == 0


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_example(path):
    run = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0 and run.stdout.count("\n") >= 3, run.stderr


def test_readme_example(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert len(blocks) == 2
    run = subprocess.run([sys.executable, "-c", "\n".join(blocks)], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert run.returncode == 0 and "x [" in run.stdout and "705572" in run.stdout, run.stderr


def test_readme_tables_are_those_of_the_rows():
    subprocess.run([sys.executable, ROOT / "scripts" / "readme_tables.py", "--check"], check=True)


def test_relative_links_lead_somewhere():
    for document in [ROOT / "README.md", ROOT / "DESIGN.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!http|#)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
