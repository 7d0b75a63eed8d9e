"""Errors with a one-line message, a hint and an exit code."""


class BsprobeError(Exception):
    """An error that the user can act on; shown without a traceback.

    Attributes:
        hint: The next step for the user, or None.
        exit_code: The exit status of a command that ends with this error.
    """

    exit_code = 2

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(BsprobeError):
    """An option or argument is unknown, out of range or contradicts another."""


class DeviceError(BsprobeError):
    """The requested device does not exist or cannot be used."""


class FileError(BsprobeError):
    """A file or folder cannot be read or written, or has the wrong content."""


class NotComparableError(BsprobeError):
    """Two runs differ in settings other than the one that is compared."""


class MissingPackageError(BsprobeError):
    """A required package is not installed."""


class WorkerError(BsprobeError):
    """The worker process could not be started or sent an invalid message."""


class OutOfReachError(WorkerError):
    """The other processes of a run cannot be reached."""


class InterruptedRunError(BsprobeError):
    """The user stopped the command; finished trials are on disk."""

    exit_code = 130
