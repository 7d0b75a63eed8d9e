"""The catalogue of GPUs: their memory, and the sources of the figures.

Every figure of `gpus.csv` was published by somebody who had the card. Its source stands beside it:
an issue, or the words to search for. Measurements by bsprobe on the card replace published
figures. Totals are the lowest published ones: newer drivers reserve up to 200 MiB more
(RTX 2080 Ti, T4).

Memory outside the allocator comes from PyTorch's out-of-memory messages: the median of (memory in
use - allocated - reserved but unallocated). The source column holds these differences; each term
is rounded to 0.01 GiB. "(of 47.53 GiB)" marks messages that do not name the card; their total
capacity identifies it. Messages with CUDA graphs or several GPUs are left out if they lie far
above the others of the card.

One figure per card is enough for all networks: since 1.13 PyTorch loads a kernel at its first call
(`CUDA_MODULE_LOADING=LAZY`, pytorch/pytorch#86509, where a process shrank from 667 to 287 MB), so
the libraries add little to the context. All messages are from later versions, and those of
convolutional networks (RTX A6000, 304 to 326 MiB) lie among those of language models.

Cells without evidence are empty, and their figures are estimated from the other cards:

- *Total memory*: `nominal_mib` (shown by nvidia-smi) minus the median of (nominal - total) of the
  cards with the same compute capability.
- *Memory outside the allocator*: the number of multiprocessors times the median per multiprocessor
  of the cards with the same compute capability. A context reserves memory for the stacks of all
  resident threads: the evidence grows with the number of multiprocessors, and is highest for the
  capabilities with 2048 threads per multiprocessor (7.0, 8.0, 9.0, 10.0).

Both medians are over all cards if those of the compute capability have no evidence.
"""

import csv
import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from statistics import median

from bsprobe.records.bounds import ASKED
from bsprobe.records.errors import DeviceError, UsageError
from bsprobe.records.units import MIB, format_bytes

ESTIMATE = "estimate"
"""The source of an estimated figure; the module's docstring has the rules."""
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
"""The columns of `gpus.csv`; the last four are empty without evidence."""
FIRST_WITH_TENSOR_CORES = (7, 0)
DEFAULT_GPU = "RTX 3090"
"""The card for predictions if the machine has no GPU and none is given.

24 GB is typical for dense prediction: advice is written for "12-24 GB", no consumer card had more
from 2018 to 2024, and RTX 4090, A5000, A10G and L4 have the same memory within 7 %. timm's
published benchmark used the RTX 3090, so that predictions for it can be checked.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU with the memory that a training process can use."""

    name: str
    compute_capability: str
    """As NVIDIA writes it: `8.6`."""
    total_bytes: int
    """As `torch.cuda.get_device_properties` reports it; the lowest value if drivers differ."""
    total_source: str
    """The source of `total_bytes`, or `estimate`."""
    outside_allocator_bytes: int
    """Held by a training process but not by PyTorch's allocator: context, kernels, libraries."""
    outside_source: str
    """The source of `outside_allocator_bytes`, or `estimate`."""

    @property
    def multiprocessors(self) -> int:
        """Number of multiprocessors: the catalogue's, else the median of its compute capability.

        It is no field, so that files name the same card whether or not it is known.
        """
        lines = _lines()
        line = next((each for each in lines if each.name == self.name), None)
        known = None if line is None else line.multiprocessors
        counts = {each: each.multiprocessors for each in lines if each.multiprocessors is not None}
        return known or round(_typical(self.compute_capability, counts))

    @property
    def threads(self) -> int:
        """Threads that a multiprocessor runs at once.

        Source: CUDA C++ Programming Guide, technical specifications by compute capability.
        """
        return _FEWER_THREADS.get(self.compute_capability, 2048)

    @property
    def capability(self) -> tuple[int, int]:
        """The compute capability as (major, minor)."""
        major, minor = self.compute_capability.split(".")
        return int(major), int(minor)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about software and precisions that the card does not support.

        Source: the release notes of PyTorch 2.8, and the table in pytorch/pytorch#172352.
        """
        if self.capability >= FIRST_WITH_TENSOR_CORES:
            return ()
        note = (
            "PyTorch's builds for CUDA 12.8 and later do not run on compute capability "
            f"{self.compute_capability}; those for CUDA 12.6 do. It has no tensor cores: half "
            "precision saves memory, hardly time."
        )
        return (note,)

    @property
    def allocator_bytes(self) -> int:
        """Bytes that PyTorch's allocator can reserve if no other process holds memory."""
        return self.total_bytes - self.outside_allocator_bytes


_FEWER_THREADS = {"7.5": 1024, "8.6": 1536, "8.9": 1536, "12.0": 1536}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """A line of `gpus.csv`: sizes in MiB, None without evidence."""

    name: str
    compute_capability: str
    multiprocessors: int | None
    nominal: int | None
    total: int | None
    total_source: str
    outside: int | None
    outside_source: str


@cache
def catalogue() -> tuple[Gpu, ...]:
    """Return all cards, in the order of `gpus.csv`."""
    lines = _lines()
    return tuple(_gpu(line, lines) for line in lines)


@cache
def _lines() -> tuple[_Line, ...]:
    text = (resources.files("bsprobe.records") / "gpus.csv").read_text(encoding="utf-8")
    return tuple(_line(row) for row in csv.DictReader(text.splitlines(), strict=True))


_ANOTHER = "; for another: --gpu custom --capacity 20GiB --compute-capability 8.6"


def find_gpu(text: str) -> Gpu:
    """Find a card by name, ignoring case, maker and punctuation (`rtx4090`, `a6000`).

    Raises:
        UsageError: No card matches (the nearest name is suggested), or several match.
    """
    found = _found(text, "--gpu", _ANOTHER)
    if len(found) == 1:
        return found[0]
    names = ", ".join(gpu.name for gpu in found)
    raise UsageError(f"--gpu: '{text}' matches several cards", hint=f"choose among {names}")


def find_gpus(names: Iterable[str], option: str) -> tuple[Gpu, ...]:
    """Find cards by name, without duplicates, in the order of the names.

    Args:
        names: Names as in `find_gpu`; a name that matches several cards finds all of them.
        option: The option to name in an error.

    Raises:
        UsageError: No card matches a name.
    """
    return tuple(dict.fromkeys(gpu for name in names for gpu in _found(name, option, "")))


def _found(text: str, option: str, another: str) -> tuple[Gpu, ...]:
    """Find the cards that match a name; `another` ends the hint for an unknown name."""
    asked = _words(text)
    named = [gpu for gpu in catalogue() if _words(gpu.name) == asked]
    found = named or [gpu for gpu in catalogue() if _is_meant(asked, _words(gpu.name))]
    if found:
        return tuple(found)
    known = {" ".join(_words(gpu.name)): gpu.name for gpu in catalogue()}
    near = difflib.get_close_matches(" ".join(asked), known, n=1, cutoff=0.5)
    suggestion = f"did you mean {known[near[0]]}? " if near else ""
    raise UsageError(
        f"{option}: '{text}' is unknown", hint=f"{suggestion}bsprobe gpus lists all{another}"
    )


def custom_gpu(capacity_bytes: int, compute_capability: str, outside: int | None = None) -> Gpu:
    """Make a card that is not in the catalogue.

    Args:
        capacity_bytes: The total memory in bytes, as PyTorch reports it.
        compute_capability: The compute capability of a card of the catalogue: `8.6`.
        outside: Bytes outside the allocator; None for the median of that compute capability.

    Raises:
        UsageError: A value is unknown or out of range.
    """
    alike = [g for g in catalogue() if g.compute_capability == compute_capability]
    if not alike:
        raise _unknown_capability(compute_capability)
    if capacity_bytes not in ASKED["total_bytes"]:
        raise UsageError(
            f"--capacity: {format_bytes(capacity_bytes)} is out of range",
            hint=f"give more than 0 and less than {format_bytes(ASKED['total_bytes'].most)}",
        )
    held = int(median(g.outside_allocator_bytes for g in alike)) if outside is None else outside
    if not 0 <= held < capacity_bytes:
        raise UsageError(
            f"--capacity: {format_bytes(capacity_bytes)} leaves no memory for training: "
            f"{format_bytes(held)} are held outside PyTorch's allocator",
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


def check_limit(gpu: Gpu, limit_bytes: int) -> None:
    """Check that a card can train under a memory limit.

    Raises:
        DeviceError: The limit exceeds the card's memory or leaves no memory for training.
    """
    if limit_bytes > gpu.total_bytes:
        raise DeviceError(
            f"a memory limit of {format_bytes(limit_bytes)} is more than the "
            f"{format_bytes(gpu.total_bytes)} of {gpu.name}",
            hint="a limit can only make a GPU smaller",
        )
    if limit_bytes <= gpu.outside_allocator_bytes:
        raise DeviceError(
            f"a memory limit of {format_bytes(limit_bytes)} is used up by the CUDA context, "
            f"which takes {format_bytes(gpu.outside_allocator_bytes)}",
            hint="give a larger --memory-limit, with its unit: 11GiB",
        )


_NCCL_TWO_BYTES = 544 * MIB
_NCCL_MORE_BYTES = 688 * MIB
"""Bytes of NCCL for an all-reduce among two and among more A100 over NVLink
(github.com/NVIDIA/nccl/issues/964). They grow with the number of channels, which is higher for
faster links (issue 986), and hardly with the number of GPUs. They are too high for slower links."""


def nccl_bytes(processes: int) -> int:
    """Estimate the bytes that NCCL holds on each GPU outside PyTorch's allocator."""
    if processes == 1:
        return 0
    return _NCCL_TWO_BYTES if processes == 2 else _NCCL_MORE_BYTES  # noqa: PLR2004 - a pair


def compute_capabilities() -> tuple[str, ...]:
    """Return the compute capabilities of the catalogue, ascending."""
    return tuple(sorted({gpu.compute_capability for gpu in catalogue()}, key=float))


def _unknown_capability(text: str) -> UsageError:
    known = compute_capabilities()
    hint = f"choose among {', '.join(known)}"
    meant = text
    # CUDA's tools write 8.6 as 86 and sm_86.
    if plain := re.fullmatch(r"(?:sm_?|compute_?)?(\d{1,2})(\d)a?", text.strip().lower()):
        meant = f"{plain[1]}.{plain[2]}"
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", meant):
        nearest = min(known, key=lambda capability: abs(float(capability) - float(meant)))
        hint = f"the nearest is {nearest}; known: {', '.join(known)}"
        if nearest == meant:
            hint = f"did you mean {meant}? Known: {', '.join(known)}"
    return UsageError(f"--compute-capability: '{text}' is unknown", hint=hint)


def _line(row: dict[str, str]) -> _Line:
    return _Line(
        name=row["name"],
        compute_capability=row["compute_capability"],
        multiprocessors=_count(row["multiprocessors"]),
        nominal=_count(row["nominal_mib"]),
        total=_count(row["total_mib"]),
        total_source=row["total_source"],
        outside=_count(row["outside_mib"]),
        outside_source=row["outside_source"],
    )


def _count(cell: str) -> int | None:
    return int(cell) if cell else None


def _gpu(line: _Line, lines: Iterable[_Line]) -> Gpu:
    return Gpu(
        name=line.name,
        compute_capability=line.compute_capability,
        total_bytes=(line.total or _estimated_total(line, lines)) * MIB,
        total_source=line.total_source or ESTIMATE,
        outside_allocator_bytes=(line.outside or _estimated_outside(line, lines)) * MIB,
        outside_source=line.outside_source or ESTIMATE,
    )


def _estimated_total(line: _Line, lines: Iterable[_Line]) -> int:
    assert line.nominal is not None, line  # noqa: S101 - a test reads every line
    unseen = {
        other: other.nominal - other.total
        for other in lines
        if other.nominal is not None and other.total is not None
    }
    return line.nominal - round(_typical(line.compute_capability, unseen))


def _estimated_outside(line: _Line, lines: Iterable[_Line]) -> int:
    assert line.multiprocessors is not None, line  # noqa: S101 - as above
    each = {
        other: other.outside / other.multiprocessors
        for other in lines
        if other.multiprocessors is not None and other.outside is not None
    }
    return round(line.multiprocessors * _typical(line.compute_capability, each))


def _typical(capability: str, figures: Mapping[_Line, float]) -> float:
    """Return the median over the cards of the same compute capability, else over all cards."""
    alike = [figure for other, figure in figures.items() if other.compute_capability == capability]
    return median(alike or figures.values())


_LEFT_OUT = frozenset(
    {"nvidia", "geforce", "tesla", "rtx", "gtx", "generation", "server", "workstation", "edition"}
)
"""Optional words of a name."""
_OTHER_CARDS = frozenset({"ti", "super", "laptop", "max"})
"""Words that distinguish cards, so that "RTX 3080" does not match the RTX 3080 Ti."""
_PASTED = re.compile(r"(?<=rtx|gtx)(?=[a\d])|(?<=\d)(?=ti|super|ada|laptop)|(?<=ti)(?=super)")
"""The boundaries between words that are written as one: `rtx4070tisuper`."""


def _words(name: str) -> tuple[str, ...]:
    """Return the words of a name that distinguish cards, in lower case."""
    words = re.findall(r"[a-z0-9]+", _PASTED.sub(" ", name.lower()))
    # SXM2, SXM4 and SXM5 are the sockets of V100, A100 and H100.
    return tuple(re.sub(r"^sxm\d$", "sxm", word) for word in words if word not in _LEFT_OUT)


def _is_meant(asked: tuple[str, ...], name: tuple[str, ...]) -> bool:
    """Return whether a name has all given words and no further word of `_OTHER_CARDS`."""
    missing = set(name) - set(asked)
    return bool(asked) and set(asked) <= set(name) and not missing & _OTHER_CARDS
