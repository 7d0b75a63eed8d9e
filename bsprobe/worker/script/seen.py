"""The records that the processes of a script write, one file each, as `inside/` describes them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bsprobe.records.scripts import MemoryLimit
from bsprobe.storage.codec import MalformedError, from_json, parse_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Importing:
    """A process has begun to import PyTorch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """A process has imported PyTorch."""

    torch: str
    python: str
    limit: MemoryLimit | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The memory of a process; peaks are since its start."""

    time: float
    """On the system's monotonic clock, in seconds."""
    device: str
    allocated: int
    reserved: int | None
    retries: int
    ooms: int
    benchmark: bool
    """True if cuDNN times its algorithms, which may run out of memory on purpose."""
    held: int
    """Bytes that are allocated now."""
    unused: int
    """Bytes that the limit counts and that are not resident; 0 on a GPU."""
    rank: int
    world: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stepped(Memory):
    """A process has made an optimizer step."""

    step: int
    optimizer: str
    rates: tuple[float, ...]
    parameters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RanOut:
    """An exception for lack of memory was raised in a process, whether or not it was caught."""

    message: str
    """The class and the text of the exception."""


_KINDS = {"importing": Importing, "torch": Imported, "step": Stepped, "oom": RanOut, "end": Memory}


@dataclass(slots=True)
class Seen:
    """All that one process has written."""

    pid: int
    imported: Imported | None = None
    steps: list[Stepped] = field(default_factory=list)
    """The last record of each step, by the number of the step."""
    optimizers: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """The learning rates of the first step of each class of optimizer, in order."""
    ran_out: list[RanOut] = field(default_factory=list)
    end: Memory | None = None

    @property
    def last(self) -> Memory | None:
        """The latest record of its memory."""
        return self.end or (self.steps[-1] if self.steps else None)

    def add(self, record: object) -> None:
        """Add a record."""
        if isinstance(record, Imported):
            self.imported = record
        elif isinstance(record, Stepped):
            self.optimizers.setdefault(record.optimizer, record.rates)
            # Several optimizers step with the same number: the last one has all their memory.
            if self.steps and self.steps[-1].step == record.step:
                self.steps.pop()
            self.steps.append(record)
        elif isinstance(record, RanOut):
            self.ran_out.append(record)
        elif isinstance(record, Memory):
            self.end = record


def training_of(seen: Iterable[Seen]) -> list[Seen]:
    """Return the processes that have made an optimizer step."""
    return [each for each in seen if each.steps]


class Records:
    """Reads the records of a trial while its processes write them.

    Args:
        folder: The folder of the records.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}
        self._seen: dict[Path, Seen] = {}

    def look(self) -> list[Seen]:
        """Read what is new; return what all processes have written so far."""
        for path in sorted(self._folder.glob("*.jsonl")):
            pid = path.name.partition("-")[0]
            if pid.isdecimal():
                seen = self._seen.setdefault(path, Seen(pid=int(pid)))
                for record in self._new(path):
                    seen.add(record)
        return list(self._seen.values())

    def _new(self, path: Path) -> Iterator[object]:
        """Yield the records of the lines that were completed since the last look."""
        with path.open("rb") as file:
            file.seek(self._read.get(path, 0))
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read[path] = self._read.get(path, 0) + len(whole)
        for line in whole.splitlines():
            try:
                values = parse_json(line)
                yield from_json(_KINDS[values.pop("kind")], values)
            except (MalformedError, AttributeError, KeyError, TypeError):
                continue  # the script has written into the folder
