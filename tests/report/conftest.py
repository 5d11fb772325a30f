"""Made-up rows for the look and the tests of reports; no figure here was measured on a network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest


def made_up_row(codec: str, strength: float, *, sites: int = 17, images: int = 200, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    layers = []
    for n in range(sites):
        stage = n * 4 // sites
        shape = [64 << stage, 56 >> stage, 56 >> stage]
        raw = images * int(np.prod(shape))
        density = float(rng.uniform(0.2, 0.8))
        dct = float(rng.uniform(0, 0.5))
        nbytes = int(raw * (0.125 + 0.6 * density) / strength)
        layers.append(
            {
                "site": f"layer{stage + 1}.{n % 4}.relu:relu" + ("#1" if n % 2 else ""),
                "shape": shape,
                "density": density,
                "mode": {"zero": 0.08, "zvc": 0.9 - dct, "dct": dct, "raw": 0.02},
                "nbytes": nbytes,
                "raw_nbytes": raw,
                "ratio": raw / nbytes,
                "mse": float(rng.uniform(0, 2)),
                "reads": 1 + n % 2,
            }
        )
    raw, nbytes = (sum(layer[key] for layer in layers) for key in ("raw_nbytes", "nbytes"))
    ratios = [layer["ratio"] for layer in layers]
    return {
        "codec": codec,
        "arch": "made_up_net",
        "images": images,
        "calib_images": 64,
        "sites": sites,
        "raw_nbytes": raw,
        "nbytes": nbytes,
        "shared_nbytes": 12345,
        "ratio": raw / nbytes,
        "ratio_with_shared": raw / (nbytes + 12345),
        "ratio_mean_of_layers": float(np.mean(ratios)),
        "ratio_worst_layer": min(ratios),
        "bits_per_value": 8 * nbytes / raw,
        "scale": "p99.99",
        "top1_float": 76.0,
        "top1_reference": 75.5,
        "top1": 75.5,
        "drop_points": 0.5,
        "drop_ci95": [-0.88, 1.88],
        "drop_smoothed": 0.21,
        "agreement": 0.955,
        "kl": 0.01 * strength**3,
        "kl_ci95": [0.008 * strength**3, 0.012 * strength**3],
        "seconds": 47.25,
        "layers": layers,
        "command": f"tensorpress features evaluate --arch made_up_net --codec {codec} --images pictures --labels labels.csv --max-kl 0.04 --json out.json",
        "machine": "A processor, 2 cores, Python 3.11, torch 2.6, tensorpress 0.1.0",
    }


@pytest.fixture
def row() -> dict[str, Any]:
    return made_up_row("dct_cm", 1.4)


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    return [made_up_row(codec, strength) for codec, strength in (("dct_cm", 1.4), ("zvc", 1.1), ("klt", 1.35), ("uniform_rans", 1.45), ("raw", 0.5))]


@pytest.fixture
def unknown(row: dict[str, Any]) -> dict[str, Any]:
    """Every value null, in the row and in its layers; only the names stand."""
    layers = [{key: None for key in layer} | {"site": layer["site"]} for layer in row["layers"]]
    return {key: None for key in row} | {"codec": "dct_cm", "layers": layers}


@pytest.fixture
def curves() -> list[dict[str, Any]]:
    def curve(name: str, best: float) -> dict[str, Any]:
        kls = np.geomspace(0.004, 0.3, 7)
        return {"name": name, "points": [{"kl": float(kl), "ratio": best * (1 + 0.22 * float(np.log(kl / 0.004))), "drop_points": 8 * float(kl)} for kl in kls]}

    return [curve("dct_cm", 1.3), curve("dct_cm, masks only", 1.22), curve("dct_cm, DCT only", 1.0), curve("uniform_rans", 1.25)]


@pytest.fixture
def pictures() -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    found = []
    for site, edge in (("layer1.0.relu:relu", 56), ("layer3.1.relu:relu#1", 14)):
        y, x = np.mgrid[0:edge, 0:edge] / edge
        waves = [np.sin(7 * (a * x + b * y) + c) * np.cos(5 * (x - b * y)) for a, b, c in rng.uniform(-2, 2, (8, 3))]
        before = np.clip(220 * np.stack(waves), 0, 255).astype(np.uint8)
        after = np.clip((before.astype(int) + 6) // 12 * 12, 0, 255).astype(np.uint8)
        found.append({"site": site, "before": before, "after": after})
    return found
