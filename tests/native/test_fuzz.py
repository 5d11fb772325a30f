"""The fuzz driver: damaged payloads end well in the ordinary build too, and what does not end well is told by number."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tensorpress.core import registry

DRIVER = Path(__file__).parents[2] / "native" / "fuzz" / "payloads.py"


@pytest.fixture(scope="module")
def driver() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz_payloads", DRIVER)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_damaged_payloads_end_in_arrays_or_stream_errors():
    run = subprocess.run([sys.executable, DRIVER, "--cases", "1000", "--seed", "7"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("1000 cases from seed 7 on ") and "state refused" in run.stdout


def test_every_codec_of_ours_is_in_the_corpus(driver):
    assert {s.codec for s in driver.corpus(None)} == {card.id for card in registry.cards().values() if card.stable}


def test_cases_are_made_again_by_their_number_and_failures_name_it(driver, monkeypatch, capsys):
    seen = []

    def decode_payload(self, payload, **options):
        seen.append(bytes(payload))
        raise IndexError("a decoder that was not careful")

    monkeypatch.setattr(driver.Codec, "decode_payload", decode_payload)
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", ["payloads.py", "--cases", "1", "--seed", "41"])
        with pytest.raises(IndexError):
            driver.main()
        assert "case 41, codec " in capsys.readouterr().err
    assert len(seen) == 2 and seen[0] == seen[1]
