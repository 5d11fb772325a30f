"""The errors that users meet. Each message names the place and the reason."""


class TensorPressError(Exception):
    """Any error that TensorPress raises on purpose."""


class StreamError(TensorPressError, ValueError):
    """Bytes that are not a stream, bundle or plan which this version can decode."""


class InputError(TensorPressError, ValueError):
    """A value, file, option or network that cannot be used; the command line exits with code 2."""
