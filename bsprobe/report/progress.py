"""Progress on standard error: a live area on a terminal, else plain lines."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from bsprobe.records.printable import single_line
from bsprobe.report.escaping import without_commands

_QUIET_SECONDS = 15.0
"""Without a terminal, an activity is printed after this time without output."""
_BELOW = 3
"""Lines of a terminal reserved for the activity and the cursor."""
_FRAMES_PER_SECOND = 10


class Progress:
    """A log of finished work and the current activity.

    On a terminal both are one live area, which is erased at the end. In a pipe or a file, each log
    entry is a line, and an activity is printed only after 15 seconds without output.

    Args:
        console: Console of standard error.
        clock: Monotonic clock, in seconds.
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
        """Show progress inside the context. After an error the log stays on the terminal."""
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
        """End the current activity and add an entry to the log."""
        shown = single_line(line)
        self._now = ""
        self._log.append(shown)
        self._show(shown)

    def begin(self, activity: str) -> None:
        """Set the current activity; a log entry follows at its end."""
        self._now = single_line(activity)
        self._show_activity(self._now)

    def on_stage(self, stage: str) -> None:
        """Set the current activity; without a terminal it is printed, as no log entry follows."""
        self._now = single_line(stage)
        self._show(self._now)

    def on_phase(self, phase: str) -> None:
        """Show a phase of the current activity."""
        shown = single_line(phase)
        self._show_activity(f"{self._now}  {shown}" if self._now else shown)

    def warn(self, sentence: str) -> None:
        """Print a line that stays on the terminal."""
        self._print(single_line(sentence))

    def erase(self) -> None:
        """Erase the live area and clear the log."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        self._log.clear()
        self._now = ""

    def _show(self, line: str) -> None:
        """Refresh the live area; without a terminal, print the line."""
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
        self._console.print(
            without_commands(line), highlight=False, markup=False, emoji=False, soft_wrap=True
        )
