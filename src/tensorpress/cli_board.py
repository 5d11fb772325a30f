"""`tensorpress features leaderboard`: every codec on one network, one counting rule."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from tensorpress import cli_parts as cli
from tensorpress.console import one_line
from tensorpress.core.errors import InputError


def register(features: typer.Typer) -> None:
    """Add this command to `tensorpress features`."""
    features.command()(leaderboard)


def leaderboard(
    images: cli.Images,
    arch: cli.Arch = None,
    model: cli.Model = None,
    weights: cli.Weights = None,
    labels: cli.Labels = None,
    codecs: Annotated[str | None, typer.Option(help="Entries to measure, separated by ';': names, codec ids, or ablations. All by default.")] = None,
    calib_limit: cli.CalibLimit = 64,
    limit: Annotated[int | None, typer.Option(help="Evaluate on at most this many pictures.", min=2)] = None,
    points: Annotated[int, typer.Option(help="Points of each curve.", min=2)] = 5,
    jobs: Annotated[int, typer.Option(help="Processes side by side.", min=1)] = os.cpu_count() or 1,
    seconds: Annotated[float | None, typer.Option(help="Stop handing out work after this long; the same command goes on.")] = None,
    work: Annotated[Path | None, typer.Option(help="Folder of measurements, kept so that a stopped run goes on. [default: beside --json]")] = None,
    mean: cli.Mean = None,
    std: cli.Std = None,
    resize: cli.Resize = None,
    crop: cli.Crop = None,
    label_offset: cli.LabelOffset = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write a self-contained page.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the rows, over those of the same name.")] = None,
) -> None:
    """Measure every feature-map codec on a network: lossless ratio, rate against KL, ratio at a drop. Stops and goes on."""
    if out is None and json_path is None:
        raise InputError("leaderboard needs --out board.html, --json board.json, or both")
    if out is not None:
        cli.need_plotly()
    from tensorpress.evaluate import board as boards
    from tensorpress.report.board import board_table, write_board

    chosen = boards.variants(None if codecs is None else [name.strip() for name in codecs.split(";") if name.strip()])
    pre: dict[str, Any] = {"mean": mean, "std": std, "resize": resize, "crop": crop, "label_offset": label_offset}
    network, wanted, name = cli.network_of(arch, model, weights, **pre)
    calibration, test = cli.calibration_and_test(images, labels, None, calib_limit, limit, None)
    truth: Any = None
    if any(label is not None for label in test.labels):
        test.check_labels(cli.class_count(network, test, wanted))
        truth = [label + wanted.label_offset for label in test.labels]
    folder = work or (json_path or out or Path("board")).with_suffix(".work")
    board = boards.Board(folder, network, cli.Prepared(calibration, wanted), cli.Prepared(test, wanted), truth)
    with cli.Bar() as bar:
        rows, troubles = boards.run(
            board, chosen, points, jobs, {"arch": name, "command": cli.command_line()}, bar, float("inf") if seconds is None else seconds
        )
    for trouble in troubles:
        cli.err.print(f"left out: {one_line(trouble)}", style="yellow", highlight=False)
    if json_path is not None:
        boards.save(json_path, rows)
    if out is not None:
        write_board(out, rows)
    cli.out.print(board_table(rows))
