"""Progress on standard error: an area of a terminal that is erased in the end, or plain lines."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

_QUIET_SECONDS = 15.0
"""Without a terminal, something that takes long is mentioned again after this time."""
_BELOW = 3
"""Lines of a terminal that the log leaves free: for the activity and the cursor."""
_FRAMES_PER_SECOND = 10


class Progress:
    """A log of what is done and the activity of the moment.

    On a terminal both are one live area, which gives way to whatever is printed afterwards. Where
    standard error is a pipe or a file, each entry of the log is a line that stays, and an activity
    is a line only when nothing else was printed for a while.

    Args:
        console: Standard error.
        clock: Seconds of a clock that only goes forward.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._log: list[str] = []
        self._now = ""
        self._spinner = Spinner("dots")
        self._live: Live | None = None
        self._printed_at = clock()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show progress inside the context; an error leaves the log on the terminal."""
        try:
            yield
        except BaseException:
            if self._live is not None:
                self._live.transient = False
                self._refresh("")
            raise
        finally:
            self.erase()

    def log(self, line: str) -> None:
        """Add an entry to the log; the activity before it has ended."""
        self._now = ""
        self._log.append(line)
        self._show(line)

    def begin(self, activity: str) -> None:
        """Set the activity of the moment, which an entry of the log will name when it has ended."""
        self._now = activity
        self._show_activity(activity)

    def on_stage(self, stage: str) -> None:
        """Set the activity of the moment, of which no entry of the log will tell."""
        self._now = stage
        self._show(stage)

    def on_phase(self, phase: str) -> None:
        """Add to the activity of the moment what exactly is done."""
        self._show_activity(f"{self._now}  {phase}" if self._now else phase)

    def warn(self, sentence: str) -> None:
        """Print a line that stays on the terminal too."""
        self._print(sentence)

    def erase(self) -> None:
        """Take the live area away and forget the log; what comes next begins another one."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        self._log.clear()
        self._now = ""

    def _show(self, line: str) -> None:
        """Show the live area as it is now; without a terminal, the line."""
        if self._console.is_interactive:
            self._refresh(self._now)
        else:
            self._print(line)

    def _show_activity(self, activity: str) -> None:
        if self._console.is_interactive:
            self._refresh(activity)
        elif self._clock() - self._printed_at >= _QUIET_SECONDS:
            self._print(activity)

    def _refresh(self, activity: str) -> None:
        room = max(1, self._console.height - _BELOW)
        lines = [Text(line, no_wrap=True, overflow="ellipsis") for line in self._log[-room:]]
        self._spinner.update(text=Text(activity, no_wrap=True, overflow="ellipsis"))
        area = Group(*lines, *([self._spinner] if activity else []))
        if self._live is None:
            self._live = Live(
                area,
                console=self._console,
                transient=True,
                refresh_per_second=_FRAMES_PER_SECOND,
            )
            self._live.start()
        else:
            self._live.update(area)

    def _print(self, line: str) -> None:
        self._printed_at = self._clock()
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)
