"""Users' own commands as workloads: the command, and the facts that a trial of it shows."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePath
from typing import Final

from bsprobe.records.printable import shell_word

BATCH: Final = "{batch}"
"""The place of the batch in a command."""
ACCUMULATION: Final = "{accumulation}"
"""The place of the accumulation steps in a command."""
OUT: Final = "{out}"
"""The place of a scratch folder, one for each trial."""
BATCH_VARIABLE: Final = "BSPROBE_BATCH"
"""Environment variable with the batch of a trial."""
ACCUMULATION_VARIABLE: Final = "BSPROBE_ACCUMULATION"
"""Environment variable with the accumulation steps of a trial."""
TRIAL_VARIABLE: Final = "BSPROBE_TRIAL"
"""Environment variable that is 1 in a trial."""
SECONDS: Final = 120.0
"""The default of the time without an optimizer step after which a trial is decided."""
WARMUP_STEPS: Final = 2
"""The default of the steps of a script before the measured ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A command that trains, with places for the batch and the accumulation steps."""

    command: tuple[str, ...]
    """The words of the command, with `BATCH`, `ACCUMULATION` and `OUT` in their places."""
    seconds: float = SECONDS
    """The time without an optimizer step after which a trial is decided."""

    @property
    def name(self) -> str:
        """The short name: the Python file, else the module after `-m`, else the program."""
        for word in self.command:
            if word.endswith(".py"):
                return PurePath(word).name
        for before, word in zip(self.command, self.command[1:], strict=False):
            if before == "-m":
                return word
        return PurePath(self.command[0]).name

    @property
    def accumulates(self) -> bool:
        """True if the command takes the accumulation steps."""
        return self.names(ACCUMULATION) or self.names(ACCUMULATION_VARIABLE)

    def names(self, text: str) -> bool:
        """Return whether a text, such as a place or a variable, stands in the command."""
        return any(text in word for word in self.command)

    def words(self, batch: int, accumulation: int, out: str) -> list[str]:
        """Return the words of the command with the numbers put in; other braces stay.

        Args:
            batch: The micro-batch.
            accumulation: Micro-batches per optimizer update.
            out: The scratch folder of the trial.
        """
        given = {BATCH: str(batch), ACCUMULATION: str(accumulation), OUT: out}
        return [_filled(word, given) for word in self.command]

    def __str__(self) -> str:
        """Format the command as typed into a shell, without quotes for its places."""
        return " ".join(map(_typed, self.command))


def _typed(word: str) -> str:
    """Quote a word for a shell; the braces of a place alone need no quotes."""
    bare = _filled(word, dict.fromkeys((BATCH, ACCUMULATION, OUT), "x"))
    return word if bare and shell_word(bare) == bare else shell_word(word)


def _filled(word: str, given: Mapping[str, str]) -> str:
    """Put values into a word in one pass: a value is never itself searched for places."""
    parts, rest = [], word
    while rest:
        found = [(at, place) for place in given if (at := rest.find(place)) >= 0]
        if not found:
            break
        at, place = min(found)
        parts += [rest[:at], given[place]]
        rest = rest[at + len(place) :]
    return "".join([*parts, rest])


class View(StrEnum):
    """The way in which bsprobe saw the memory and the steps of a script."""

    INSIDE = "inside"
    """From inside its processes: optimizer steps were seen."""
    NO_STEP = "no step"
    """From inside its processes, which imported PyTorch; no optimizer step was seen."""
    KEPT_OUT = "kept out"
    """From outside: it loaded PyTorch, but Python was told to ignore `PYTHONPATH` (-S, -I, -E)."""
    WITHOUT_PYTORCH = "without PyTorch"
    """From outside: no process loaded PyTorch."""


class MemoryLimit(StrEnum):
    """The way in which the memory limit was applied to a script; each process has its own."""

    ALLOCATOR_SETTING = "allocator setting"
    """`per_process_memory_fraction` in the settings of PyTorch's allocator."""
    FRACTION = "memory fraction"
    """`torch.cuda.set_per_process_memory_fraction`, when CUDA was initialised."""
    DATA_ABOVE_PYTORCH = "data above PyTorch"
    """`RLIMIT_DATA`, above the data that the process held once PyTorch was loaded."""
    DATA = "data"
    """`RLIMIT_DATA` of the whole process, from its start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptFacts:
    """Facts of a script that only its trials show."""

    view: View
    steps: int = 0
    """Optimizer steps that were seen, of the rank that made the fewest. Steps that a GradScaler
    skips are not among them."""
    ranks: int = 1
    """Processes that trained together."""
    limit: MemoryLimit | None = None
    """None without a memory limit."""
    torch: str | None = None
    """The version of PyTorch that the script imported, or None."""
    python: str | None = None
    """The version of Python that imported it, or None."""
    optimizer: str | None = None
    """The classes of the optimizers that stepped, or None."""
    learning_rates: tuple[float, ...] = ()
    """The learning rates of the parameter groups in the first step, without duplicates."""
    wrote: tuple[str, ...] = ()
    """Files that the trial wrote into the working directory; only the first trial looks."""
