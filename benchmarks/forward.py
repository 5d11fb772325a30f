"""What an attached plan costs a network: its forward pass with every map encoded and decoded, against the plain one, in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import maps
import torch
from process import Tell

from tensorpress.core import registry
from tensorpress.planning.plan import Entry
from tensorpress.pytorch.attach import fingerprint
from tensorpress.pytorch.plan import FAMILY, FeaturePlan
from tensorpress.pytorch.sites import find_sites


def forward(data: Path | None, codecs: Mapping[str, tuple[str, Mapping[str, Any]]], rounds: int, tell: Tell) -> list[dict[str, Any]]:
    """Seconds of one picture's forward pass, plain and with each of `codecs` (name: id, options) at every site; medians."""
    torch.set_num_threads(1)
    source = maps.resnet50(data) if data else maps.demo()
    x = source.picture(0)
    samples = [maps.outputs(source.net, source.picture(source.count - 1 - n)) for n in range(maps.CALIBRATION)]
    with torch.inference_mode():
        sites = find_sites(source.net, x)
        source.net(x)
    plans = {}
    for name, (codec_id, options) in codecs.items():
        tell(f"a plan of {name}", 0, rounds)
        fitted = [registry.build(codec_id, options).fit(list(of_site)) for of_site in zip(*samples)]
        entries = tuple(Entry(site, codec, of_site[0].shape) for site, codec, of_site in zip(sites, fitted, zip(*samples)))
        plans[name] = FeaturePlan(FAMILY, fingerprint(source.net), entries)
    seconds: dict[str, list[float]] = {name: [] for name in ("plain", *plans)}
    for number in range(rounds + 1):
        tell(f"forward pass of {source.name}", number, rounds + 1)
        seconds["plain"].append(passed(source.net, x))
        for name, plan in plans.items():
            with plan.attach(source.net):
                seconds[name].append(passed(source.net, x))
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}  # the first pass warms up
    return [{"network": source.name, "subject": name, "seconds": s, "times_plain": s / medians["plain"], "rounds": rounds} for name, s in medians.items()]


def passed(net: torch.nn.Module, x: torch.Tensor) -> float:
    with torch.inference_mode():
        started = time.perf_counter()
        net(x)
        return time.perf_counter() - started
