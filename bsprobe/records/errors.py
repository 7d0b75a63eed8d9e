"""The errors that a person is meant to read: one line, a hint, an exit code."""


class BsprobeError(Exception):
    """Something the user can act on; shown as one line and a hint, never as a traceback.

    Attributes:
        hint: What to type or to look at next, or None.
        exit_code: The exit status of the command that this error ends.
    """

    exit_code = 2

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(BsprobeError):
    """A value that was given is unknown, out of range or contradicts another."""


class DeviceError(BsprobeError):
    """The device that was asked for is absent, or is there and cannot be used."""


class FileError(BsprobeError):
    """A file or folder cannot be read, written, or is not what it should be."""


class NotComparableError(BsprobeError):
    """Two runs differ in more than what is compared, so that no comparison would mean anything."""


class MissingPackageError(BsprobeError):
    """A package that bsprobe requires is not installed."""


class WorkerError(BsprobeError):
    """The process that runs the trials could not be started or spoke nonsense."""


class OutOfReachError(WorkerError):
    """The other processes of a run cannot be reached: nobody else can say so."""


class InterruptedRunError(BsprobeError):
    """The user stopped the command; what was measured is on the disk."""

    exit_code = 130
