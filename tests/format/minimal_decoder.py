"""Opens TensorPress files with the standard library alone: python minimal_decoder.py FILE.tp [--plan PLAN] [--raw OUT].

A second decoder, written from FORMAT.md and to be read beside it. It prints a stream's type, shape and the SHA-256 of its values
(little-endian, row by row), a plan's entries, or the frames of a bundle or of a file of one frame, with their values where the plan is given.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # python -I leaves the script's folder out

from minimal import FormatError, decode_bundle, decode_frame, decode_stream, open_bundle, open_frame, open_plan
from minimal.container import Payload


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--plan", type=Path, help="of a bundle or frame")
    parser.add_argument("--raw", type=Path, metavar="OUT", help="write the values there")
    options = parser.parse_args()
    failed = False
    for path in options.files:
        try:
            for row in describe(path.read_bytes(), options.plan.read_bytes() if options.plan else None, options.raw):
                print(f"{path.name}: {row}", flush=True)
        except (FormatError, OSError) as error:
            print(f"{path.name}: {error.strerror if isinstance(error, OSError) else error}", file=sys.stderr)
            failed = True
    return failed


def describe(data: bytes, plan: bytes | None, raw: Path | None) -> list[str]:
    if data[:4] == b"\x89TPP":
        found = open_plan(data)
        return [f"plan {found.id:08x} of {found.family}", *(f"{e.site['path']}: {e.codec} {tuple(e.shape)}" for e in found.entries)]
    frames = []
    if data[:4] == b"\x89TPB":
        frames = open_bundle(data)[1]
    elif data[:1] != b"\x89":
        frames = [open_frame(data)]
        if frames[0].nbytes != len(data):
            raise FormatError(f"{len(data) - frames[0].nbytes} bytes stand after the frame")
    if frames and plan is None:
        return [f"frame of site {f.site} and plan {f.plan:08x}, {f.nbytes} bytes" for f in frames]
    arrays: list[tuple[int | None, Payload, bytes]] = []
    if data[:4] == b"\x89TPB":
        arrays += decode_bundle(data, open_plan(plan or b""))
    elif frames:
        arrays.append((frames[0].site, *decode_frame(frames[0], open_plan(plan or b""))))
    else:
        arrays.append((None, *decode_stream(data)))
    if raw:
        raw.write_bytes(b"".join(values for *_, values in arrays))
    return [("" if site is None else f"site {site}: ") + f"{p.dtype} {p.shape} {hashlib.sha256(v).hexdigest()}" for site, p, v in arrays]


if __name__ == "__main__":
    sys.exit(main())
