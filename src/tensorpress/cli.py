"""The command line: `tensorpress --help`. Mistakes of the user end in one line on stderr and exit code 2."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tensorpress import __version__, cli_board, cli_dump, cli_stream, cli_tools, cli_tune, cli_weights
from tensorpress.cli_parts import (
    Also,
    Arch,
    Bar,
    Bits,
    CalibImages,
    CalibLimit,
    CodecId,
    Crop,
    Images,
    LabelOffset,
    Labels,
    MaxDrop,
    MaxKl,
    Mean,
    Model,
    Prepared,
    Quality,
    Ratio,
    References,
    Resize,
    Scale,
    Score,
    Set,
    Std,
    Steps,
    Weights,
    beside,
    calibration_and_test,
    class_count,
    command_line,
    err,
    need_plotly,
    network_of,
    out,
    parse_options,
    write_json,
)
from tensorpress.console import one_line
from tensorpress.core.container import MAX_NBYTES
from tensorpress.core.errors import InputError, TensorPressError

app = typer.Typer(
    help="The codec layer for neural networks: feature maps and weights to real bytes, judged by what the task lost.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
features_app = typer.Typer(help="Compress what a network computes: calibrate a plan, evaluate it on pictures.", no_args_is_help=True)
app.add_typer(features_app, name="features")
app.add_typer(cli_weights.app, name="weights")
cli_stream.register(cli_weights.app)


def version(wanted: bool) -> None:
    if wanted:
        out.print(f"tensorpress {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version_: Annotated[bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version and exit.")] = False,
) -> None:
    pass


@features_app.command()
def calibrate(
    images: Images,
    output: Annotated[Path, typer.Option("--output", "-o", help="The plan file to write (.tpp).")],
    arch: Arch = None,
    model: Model = None,
    weights: Weights = None,
    codec: CodecId = "dct_cm",
    calib_limit: CalibLimit = 64,
    max_drop: MaxDrop = None,
    max_kl: MaxKl = None,
    ratio: Ratio = None,
    bits: Bits = None,
    quality: Quality = None,
    scale: Scale = "p99.99",
    steps: Steps = "fisher",
    references: References = True,
    score: Score = None,
    also: Also = None,
    set_: Set = None,
    mean: Mean = None,
    std: Std = None,
    resize: Resize = None,
    crop: Crop = None,
    label_offset: LabelOffset = None,
) -> None:
    """Fit a codec to every site of a network and write the plan. No labels are needed."""
    from tensorpress import features
    from tensorpress.pytorch.pictures import open_pictures

    pre: dict[str, Any] = {"mean": mean, "std": std, "resize": resize, "crop": crop, "label_offset": label_offset}
    network, wanted, _ = network_of(arch, model, weights, **pre)
    chosen = open_pictures(images, limit=calib_limit)
    with Bar() as bar:
        plan = features.calibrate(
            network, Prepared(chosen, wanted), codec, max_drop=max_drop, max_kl=max_kl, ratio=ratio, bits=bits, quality=quality,
            options=parse_options(set_ or []), scale=scale, steps=steps, references=references, score=score, also=also or (), progress=bar,
        )  # fmt: skip
    plan = dataclasses.replace(plan, meta={**plan.meta, "calib_pictures": list(chosen.ids)})
    plan.save(output)
    tell_target(plan)
    chosen = f"a quality by site (gap {plan.meta.get('gap', 0):.2g} nats)" if score else f"quality {plan.meta['quality']}"
    out.print(f"{output}: {len(plan.entries)} sites, codec {codec}, {chosen}, {plan.shared_nbytes:,} bytes of shared state")


@features_app.command()
def evaluate(
    images: Images,
    arch: Arch = None,
    model: Model = None,
    weights: Weights = None,
    labels: Labels = None,
    codec: CodecId = "dct_cm",
    calib_images: CalibImages = None,
    calib_limit: CalibLimit = 64,
    limit: Annotated[int | None, typer.Option(help="Evaluate on at most this many pictures.", min=1)] = None,
    max_drop: MaxDrop = None,
    max_kl: MaxKl = None,
    ratio: Ratio = None,
    bits: Bits = None,
    quality: Quality = None,
    plan_path: Annotated[Path | None, typer.Option("--plan", help="Use this plan instead of calibrating.")] = None,
    against: Annotated[Path | None, typer.Option(help="Weights before tuning: outputs are judged against that network, uncompressed.")] = None,
    scale: Scale = "p99.99",
    steps: Steps = "fisher",
    references: References = True,
    set_: Set = None,
    mean: Mean = None,
    std: Std = None,
    resize: Resize = None,
    crop: Crop = None,
    label_offset: LabelOffset = None,
    curve: Annotated[int, typer.Option(help="Points of the rate-distortion curve on the HTML page (0: none).", min=0)] = 5,
    html: Annotated[Path | None, typer.Option(help="Write a self-contained page.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the result row.")] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Print the table of layers as well.")] = False,
) -> None:
    """Encode and decode every feature map of every picture for real, and say what was saved and what it cost the task."""
    from tensorpress import features
    from tensorpress.report.terminal import layer_table, result_table

    if html is not None:
        need_plotly()
    pre: dict[str, Any] = {"mean": mean, "std": std, "resize": resize, "crop": crop, "label_offset": label_offset}
    network, wanted, name = network_of(arch, model, weights, **pre)
    plan = features.load(plan_path) if plan_path is not None else None
    if plan is not None and (any(v is not None for v in (max_drop, max_kl, ratio, bits, quality, calib_images)) or set_):
        raise InputError("--plan is finished: targets, --quality, --set and --calib-images belong to calibration")
    calibration_pictures, test = calibration_and_test(images, labels, calib_images, calib_limit, limit, plan)
    truth = None
    if any(label is not None for label in test.labels):
        test.check_labels(class_count(network, test, wanted))
        truth = list(test.labels)
    calibration = None
    with Bar() as bar:
        if plan is None:
            from tensorpress.pytorch.calibration import Calibration

            pictures = Prepared(calibration_pictures, wanted)
            calibration = Calibration.measure(network, pictures, codec, options=parse_options(set_ or []), scale=scale, steps=steps, references=references, progress=bar)
            plan = features.settle(network, pictures, calibration, max_drop=max_drop, max_kl=max_kl, ratio=ratio, bits=bits, quality=quality, progress=bar)
        context = {"arch": name, "command": command_line()}
        inputs = Prepared(test, wanted)
        original = network_of(arch, model, against, **pre)[0] if against is not None else None
        row = features.evaluate(network, plan, inputs, truth, label_offset=wanted.label_offset, against=original, context=context, progress=bar)
        if html is not None:
            from tensorpress.report.page import write_page

            curves = features.curves(network, calibration, inputs, curve, bar) if calibration is not None and curve else None
            write_page(html, [row], curves, features.pictures(network, plan, inputs[0]))
    tell_target(plan)
    if json_path is not None:
        write_json(json_path, row)
    out.print(result_table([row]))
    if layers:
        out.print(layer_table(row))


def tell_target(plan: Any) -> None:
    if plan.meta.get("target_met") is not False:
        return
    try:
        near = min(plan.meta["tried"], key=lambda t: t["kl"])
        told = (
            f"target {plan.meta['target']} was not met: nearest is quality {near['quality']:g} with KL {near['kl']:.4g}, "
            f"expected drop {near['expected_drop']:.3g} points, ratio {near['ratio']:.3g}"
        )
    except (KeyError, TypeError, ValueError):  # a plan's own account of itself: from elsewhere it may be anything
        told = "the plan says that its target was not met, and not how nearly"
    err.print(one_line(told), style="yellow")


@app.command()
def demo(
    html: Annotated[Path, typer.Option(help="The page to write.")] = Path("demo-report.html"),
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the result rows.")] = None,
) -> None:
    """Six codecs on a packaged digits network: accuracy, agreement, ratio, and a page; then its weights. No download; about half a minute."""
    need_plotly()
    from tensorpress.cli_weights import lost
    from tensorpress.demo.run import run, weights

    with Bar() as bar:
        rows = run(html, command_line(), bar)
        file = weights(bar)
    from tensorpress.report.terminal import result_table

    if json_path is not None:
        write_json(json_path, rows)
    out.print(result_table(rows))
    out.print(f"weights, {100 * file['nbytes'] / file['raw_nbytes']:.1f} % of {file['raw_nbytes']:,} bytes: {lost(file)}", highlight=False)
    out.print(f"page: {html}")


@app.command("encode")
def encode_command(
    source: Annotated[Path, typer.Argument(metavar="X.npy", help="A .npy array or a .pt tensor.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The stream to write (.tp).")],
    codec: CodecId = "dct_cm",
    plan_path: Annotated[Path | None, typer.Option("--plan", help="Write a plan-bound stream of one of its sites.")] = None,
    site: Annotated[str | None, typer.Option(help="The site of --plan, by name or number.")] = None,
    set_: Set = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """An array file to a TensorPress stream."""
    from tensorpress.core.atomic import write_atomically
    from tensorpress.facade import encode
    from tensorpress.files import read_array

    array = read_array(source)
    if plan_path is None:
        if site is not None:
            raise InputError("--site belongs to --plan")
        try:
            data = encode(array, codec, **parse_options(set_ or []))
        except InputError as error:
            raise InputError(f"{source}: {error}") from None
    else:
        from tensorpress.core.stream import write_frame

        if set_:
            raise InputError("--set belongs to a codec's id; the plan has its own options")
        plan, number = plan_and_site(plan_path, site)
        entry = plan.entries[number]
        if array.ndim != len(entry.shape) or array.shape[0] != entry.shape[0]:
            raise InputError(f"{source}: shape {array.shape} does not suit site {entry.site.name}, which has {entry.shape}")
        data = write_frame(entry.codec.encode_payload(array), number, plan.id)
    write_atomically(output, data)
    result = {"input": str(source), "output": str(output), "input_nbytes": array.nbytes, "nbytes": len(data), "ratio_8bit": array.size / len(data)}
    if json_:
        beside(output).print_json(data=result)
    else:
        beside(output).print(f"{output}: {len(data):,} bytes for {array.dtype} {array.shape}; {8 * len(data) / max(array.size, 1):.3g} bits a value")


def plan_and_site(path: Path, site: str | None) -> tuple[Any, int]:
    from tensorpress.planning.plan import Plan

    plan = Plan.load(path)
    names = [entry.site.name for entry in plan.entries]
    if site is None:
        if len(names) == 1:
            return plan, 0
        raise InputError(f"{path} has {len(names)} sites: choose one with --site" + (f", for example {names[0]!r}" if names else ""))
    if site in names:
        return plan, names.index(site)
    if site.isdigit() and int(site) < len(names):
        return plan, int(site)
    raise InputError(f"{path} has no site {site!r}; it has {', '.join(names[:4])}{' …' if len(names) > 4 else ''}")


@app.command("decode")
def decode_command(
    source: Annotated[Path, typer.Argument(metavar="X.tp", help="A stream.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The array to write: .npy, or .pt for a tensor.")],
    plan_path: Annotated[Path | None, typer.Option("--plan", help="The plan of a plan-bound stream.")] = None,
    max_nbytes: Annotated[int, typer.Option(help="Refuse arrays and plans larger than this.", min=1)] = MAX_NBYTES,
    recover: Annotated[bool, typer.Option("--recover", help="Take what is intact of a damaged or cut stream: rows whose checks are right, 0 elsewhere.")] = False,
    lost: Annotated[Path | None, typer.Option(help="With --recover: a .npy mask to write, true where values are lost.")] = None,
) -> None:
    """A TensorPress stream back to an array file.

    Damage is an error, unless --recover is given: then what is wrong is told, a line each, and the intact rows are written.
    """
    from tensorpress.files import read_bytes, read_stream, recover_stream, write_array

    if lost is not None and not recover:
        raise InputError("--lost belongs to --recover")
    if not recover:
        array = read_stream(source, read_bytes(source), plan_path, max_nbytes)
        write_array(output, array)
        beside(output).print(f"{output}: {array.dtype} {array.shape}")
        return
    found = recover_stream(source, read_bytes(source), plan_path, max_nbytes)
    write_array(output, found.array)
    if lost is not None:
        write_array(lost, found.lost)
    for fault in found.faults:
        err.print(f"{source}: {fault}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    beside(output).print(f"{output}: {found.array.dtype} {found.array.shape}, {int(found.lost.sum()):,} of {found.lost.size:,} values lost")


@app.command()
def inspect(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="A stream, plan or bundle.")],
    max_nbytes: Annotated[int, typer.Option(help="Refuse arrays and plans larger than this.", min=1)] = MAX_NBYTES,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What a file holds, part by part; the parts sum to its size."""
    from rich.table import Table

    from tensorpress.files import describe, read_bytes

    found = describe(source, read_bytes(source), max_nbytes)
    if json_:
        out.print_json(data=found)
        return
    table = Table(title=f"{source}: {found['kind']}, {found['nbytes']:,} bytes")
    table.add_column("part")
    table.add_column("bytes", justify="right")
    for part, nbytes in found["parts"].items():
        table.add_row(part, f"{nbytes:,}")
    out.print(table)
    for key, value in found.items():
        if key not in ("kind", "nbytes", "parts"):
            out.print(f"{key}: {json.dumps(value) if isinstance(value, dict | list) else value}", highlight=False, markup=False)


@app.command("list")
def list_command(json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Every codec and every method, one line each."""
    from dataclasses import asdict

    from rich.table import Table

    from tensorpress.core.registry import cards

    known = [*cards().values(), *cards("method").values()]

    if json_:
        out.print_json(data=[asdict(card) for card in known])
        return
    table = Table()
    for name in ("id", "family", "what", "kind", "quality"):
        table.add_column(name)
    for card in known:
        table.add_row(card.id, card.family, card.title, card.fidelity, card.quality or "-")
    out.print(table)


@app.command()
def show(
    codec: Annotated[str, typer.Argument(metavar="ID", help="A codec's or a method's id.")],
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """A codec's or a method's card: paper, claim, options and their defaults."""
    from dataclasses import asdict

    from rich.text import Text

    from tensorpress.core.registry import any_card, system
    from tensorpress.files import option_rows

    found, options = any_card(codec), option_rows(codec)
    if json_:
        out.print_json(data={**asdict(found), "options": options})
        return
    out.print(f"{found.id}: {found.title}  ({found.family}, {found.fidelity})")
    out.print((system(codec, found.makes).__doc__ or "").strip(), highlight=False)
    for name in ("paper", "claim", "measured", "portability"):
        out.print(f"{name}: {getattr(found, name)}", highlight=False)
    out.print("options (--set name=value):")
    for row in options:
        out.print(f"  {row['name']} = {row['default']}   ", Text(row["help"], "dim"), sep="", highlight=False)


for commands in (cli_board, cli_tune, cli_dump, cli_tools):
    commands.register(features_app)


def main() -> None:
    """Console entry: errors that users can mend end in one line and exit code 2."""
    try:
        app()
    except TensorPressError as error:
        err.print(one_line(f"tensorpress: {error}"), style="red", highlight=False, soft_wrap=True)
        sys.exit(2)
    except OSError as error:  # a place or file that the system refuses where no command looked for it
        place = "" if error.filename is None else f"{error.filename}: "
        err.print(one_line(f"tensorpress: {place}{error.strerror or error}"), style="red", highlight=False, soft_wrap=True)
        sys.exit(2)
    except MemoryError:
        err.print("tensorpress: not enough memory for this", style="red", highlight=False)
        sys.exit(2)
    except KeyboardInterrupt:  # typer catches most of them itself, and gives the same code
        sys.exit(130)
