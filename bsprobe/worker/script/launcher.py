"""The program that becomes a user's command.

It ties itself to bsprobe, sets the memory limit and replaces itself by the command. Its order is
one line of JSON on standard input, whose other end bsprobe holds. The watcher keeps that input:
once bsprobe is gone, it kills every process of the trial. The command reads an empty input.
"""

import json
import os
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Final

from bsprobe.worker.tether import end_with_parent, watch_group

CANNOT_START: Final = 127
"""Exit status if the command cannot be started, as of a shell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A command to start."""

    words: list[str]
    environment: dict[str, str]
    data_limit_bytes: int | None
    """The soft limit of the data of each process; None for no limit."""
    mark: str
    """Text in the environment of every process of the trial and of no other process."""

    def encode(self) -> bytes:
        """Encode the order as one line."""
        return json.dumps(asdict(self)).encode() + b"\n"


def main() -> None:
    """Read the order and become the command."""
    end_with_parent()
    line = b""
    while not line.endswith(b"\n"):  # not a buffered read: the watcher shares the descriptor
        piece = os.read(0, 1 << 16)
        if not piece:
            os._exit(1)
        line += piece
    order = Order(**json.loads(line))
    watch_group(order.mark)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    if order.data_limit_bytes is not None:
        _limit_data(order.data_limit_bytes)
    try:
        os.execvpe(order.words[0], order.words, order.environment)  # noqa: S606 - the user's own command, without a shell
    except OSError as error:
        with suppress(OSError):
            sys.stderr.write(f"{order.words[0]}: {error.strerror}\n")
            sys.stderr.flush()
        os._exit(CANNOT_START)


def _limit_data(limit_bytes: int) -> None:
    """Set the soft limit; the hard one stays, so that each process can set its own."""
    import resource  # noqa: PLC0415 - Linux only, as the limit

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = limit_bytes if hard == resource.RLIM_INFINITY else min(limit_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


if __name__ == "__main__":
    main()
