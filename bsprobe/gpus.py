"""The catalogue of GPUs: what each offers a training process, and where the figures come from.

The figures of `gpus.csv` are those that people published, mostly in the logs of their own runs;
each stands beside its evidence. Where none was found the cell is empty, and an estimate is made
from the cards that have evidence:

- *Total memory*: the nominal memory, less the share of it that is missing on the cards of the same
  compute capability (the median; of all cards where that capability has no evidence). The driver
  keeps that part for itself, and PyTorch never sees it.
- *Memory outside the allocator*: the multiprocessors of the card, times what each takes on the
  cards of the same compute capability (the median, or that of all cards, as above). A context sets
  memory aside for the stacks of all threads that may run at once, so it grows with that number.
"""

import csv
import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from statistics import median

from bsprobe.errors import UsageError
from bsprobe.units import MIB, format_bytes

ESTIMATE = "estimate"
"""The source of a figure without evidence: the rules are those at the top of this module."""
COLUMNS = (
    "name",
    "compute_capability",
    "multiprocessors",
    "nominal_mib",
    "total_mib",
    "total_source",
    "outside_mib",
    "outside_source",
)
"""The columns of `gpus.csv`; the last four are empty where there is no evidence."""
DEFAULT_GPU = "RTX 3090"
"""The card that is predicted for where there is no GPU and none is named.

Twenty-four GiB is the most that a single consumer card had for five years, and the middle of what
people train dense prediction on: advice is given for "12-24 GB", and A10G, L4, A5000 and RTX 4090
offer the same within 4 %. Of these the RTX 3090 is the one whose memory is published best: most of
the measurements that the predictions are compared with were made on it.
"""
_LARGEST_BYTES = 2**40
"""A custom card above this is a slip in the unit: the largest real one has 0.28 TiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A graphics card as a training process meets it."""

    name: str
    compute_capability: str
    """As NVIDIA writes it: `8.6`."""
    total_bytes: int
    """As `torch.cuda.get_device_properties` reports it; the lowest seen where drivers differ."""
    total_source: str
    """Where the total was published, or `estimate`."""
    outside_allocator_bytes: int
    """Held by a training process but not by PyTorch's allocator: context, kernels, libraries."""
    outside_source: str
    """Where that was published, or `estimate`."""

    @property
    def usable_bytes(self) -> int:
        """What PyTorch's allocator can reserve where no other process holds memory."""
        return self.total_bytes - self.outside_allocator_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """A line of `gpus.csv`: sizes in MiB, None where there is no evidence."""

    name: str
    compute_capability: str
    multiprocessors: int
    nominal: int
    total: int | None
    total_source: str
    outside: int | None
    outside_source: str


@cache
def catalogue() -> tuple[Gpu, ...]:
    """All cards, in the order of the file."""
    text = (resources.files("bsprobe") / "gpus.csv").read_text(encoding="utf-8")
    lines = tuple(_line(row) for row in csv.DictReader(text.splitlines(), strict=True))
    return tuple(_gpu(line, lines) for line in lines)


def find_gpu(text: str) -> Gpu:
    """The card that a name means: case, maker and punctuation do not matter (`rtx4090`, `A100`).

    Raises:
        UsageError: No card has that name (the nearest is suggested), or several have.
    """
    asked = _words(text)
    named = [gpu for gpu in catalogue() if _words(gpu.name) == asked]
    found = named or [gpu for gpu in catalogue() if _is_meant(asked, _words(gpu.name))]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(gpu.name for gpu in found)
        raise UsageError(f"--gpu: '{text}' is one of several", hint=f"choose among {names}")
    known = {" ".join(_words(gpu.name)): gpu.name for gpu in catalogue()}
    near = difflib.get_close_matches(" ".join(asked), known, n=1, cutoff=0.5)
    suggestion = f"did you mean {known[near[0]]}? " if near else ""
    raise UsageError(
        f"--gpu: '{text}' is unknown",
        hint=f"{suggestion}bsprobe gpus lists all; for another: --gpu custom --capacity 20GiB "
        "--compute-capability 8.6",
    )


def custom_gpu(capacity_bytes: int, compute_capability: str, outside: int | None = None) -> Gpu:
    """A card that is not in the catalogue.

    Args:
        capacity_bytes: Its total memory as PyTorch reports it.
        compute_capability: One that a card of the catalogue has: `8.6`.
        outside: Bytes outside the allocator; the median of that compute capability if None.

    Raises:
        UsageError: A value is unknown or out of range.
    """
    alike = [g for g in catalogue() if g.compute_capability == compute_capability]
    if not alike:
        raise _unknown_capability(compute_capability)
    if not 0 < capacity_bytes < _LARGEST_BYTES:
        raise UsageError(
            f"--capacity: {format_bytes(capacity_bytes)} is out of range",
            hint=f"above 0 and below {format_bytes(_LARGEST_BYTES)}",
        )
    held = int(median(g.outside_allocator_bytes for g in alike)) if outside is None else outside
    if not 0 <= held < capacity_bytes:
        raise UsageError(
            f"--capacity: {format_bytes(capacity_bytes)} leaves nothing for training: "
            f"{format_bytes(held)} lie outside PyTorch's allocator",
            hint="give a larger --capacity",
        )
    return Gpu(
        name=f"custom {format_bytes(capacity_bytes)}, compute capability {compute_capability}",
        compute_capability=compute_capability,
        total_bytes=capacity_bytes,
        total_source="as given",
        outside_allocator_bytes=held,
        outside_source=ESTIMATE if outside is None else "as given",
    )


def compute_capabilities() -> tuple[str, ...]:
    """Those of the catalogue, ascending."""
    return tuple(sorted({gpu.compute_capability for gpu in catalogue()}, key=float))


def _unknown_capability(text: str) -> UsageError:
    known = compute_capabilities()
    hint = f"choose among {', '.join(known)}"
    if re.fullmatch(r"\d+(\.\d+)?", text):
        nearest = min(known, key=lambda capability: abs(float(capability) - float(text)))
        hint = f"the nearest is {nearest}; known: {', '.join(known)}"
    return UsageError(f"--compute-capability: '{text}' is unknown", hint=hint)


def _line(row: dict[str, str]) -> _Line:
    return _Line(
        name=row["name"],
        compute_capability=row["compute_capability"],
        multiprocessors=int(row["multiprocessors"]),
        nominal=int(row["nominal_mib"]),
        total=int(row["total_mib"]) if row["total_mib"] else None,
        total_source=row["total_source"],
        outside=int(row["outside_mib"]) if row["outside_mib"] else None,
        outside_source=row["outside_source"],
    )


def _gpu(line: _Line, lines: Iterable[_Line]) -> Gpu:
    total, outside = line.total, line.outside
    if total is None:
        kept = _typical(line, lines, lambda other: _ratio(other.total, other.nominal))
        total = int(line.nominal * kept)
    if outside is None:
        each = _typical(line, lines, lambda other: _ratio(other.outside, other.multiprocessors))
        outside = round(line.multiprocessors * each)
    return Gpu(
        name=line.name,
        compute_capability=line.compute_capability,
        total_bytes=total * MIB,
        total_source=line.total_source or ESTIMATE,
        outside_allocator_bytes=outside * MIB,
        outside_source=line.outside_source or ESTIMATE,
    )


def _typical(line: _Line, lines: Iterable[_Line], figure: Callable[[_Line], float | None]) -> float:
    """The median of a figure over the cards like this one, else over all that have it."""
    known = [(other, value) for other in lines if (value := figure(other)) is not None]
    alike = [v for other, v in known if other.compute_capability == line.compute_capability]
    return median(alike or [value for _, value in known])


def _ratio(part: int | None, whole: int) -> float | None:
    return None if part is None else part / whole


_BRANDS = frozenset({"nvidia", "geforce", "tesla", "generation", "rtx", "gtx"})
"""Words that people leave out."""
_OTHER_CARDS = frozenset({"ti", "super", "laptop", "max"})
"""Words that make another card of a name, so that "RTX 3080" never means the RTX 3080 Ti."""


def _words(name: str) -> tuple[str, ...]:
    """The words of a name in lower case, without the maker and what is pasted together."""
    apart = re.sub(
        r"(?<=rtx|gtx)(?=[a\d])|(?<=\d)(?=ti|super|ada|laptop)|(?<=ti)(?=super)", " ", name.lower()
    )
    return tuple(word for word in re.findall(r"[a-z0-9]+", apart) if word not in _BRANDS)


def _is_meant(asked: tuple[str, ...], name: tuple[str, ...]) -> bool:
    """Whether a name has all words that were asked for, and none that make it another card."""
    missing = set(name) - set(asked)
    return bool(asked) and set(asked) <= set(name) and not missing & _OTHER_CARDS
