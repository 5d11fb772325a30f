"""The errors that users meet. Each message names the place and the reason."""


class TensorPressError(Exception):
    """Any error that TensorPress raises on purpose."""


class StreamError(TensorPressError, ValueError):
    """Bytes that are not a stream, bundle or plan which this version can decode."""


class StripeError(StreamError):
    """One stripe of a payload is not what its codec writes; the others may be good."""

    def __init__(self, number: int, reason: str, where: str = "") -> None:
        super().__init__(f"stripe {number}{where}: {reason}")
        self.number, self.reason = number, reason


class InputError(TensorPressError, ValueError):
    """A value, file, option or network that cannot be used; the command line exits with code 2."""
