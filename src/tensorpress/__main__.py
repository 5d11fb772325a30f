"""The program: `tensorpress`, or `python -m tensorpress`. Ctrl-C ends it at any time with code 130 and no traceback."""

from __future__ import annotations

import signal


def main() -> None:
    # Loading and ending have nothing to tidy up: there Ctrl-C ends the process at once. Where whoever started us has it ignored, it stays so.
    handler = signal.getsignal(signal.SIGINT)
    at_once = signal.SIG_DFL if handler is signal.default_int_handler else handler
    signal.signal(signal.SIGINT, at_once)
    from tensorpress.cli import main as command_line

    try:
        signal.signal(signal.SIGINT, handler)
        command_line()
    finally:
        signal.signal(signal.SIGINT, at_once)


if __name__ == "__main__":
    main()
