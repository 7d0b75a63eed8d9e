"""The finished runs of several machines as one table.

`compare` compares a run with a baseline of the same machine; here the machines differ. All figures
are taken from the runs, with their source: measured or predicted.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter

from bsprobe.analysis.recommendation import recipe_of
from bsprobe.analysis.script_facts import environment_of
from bsprobe.records.runs import (
    SCHEMA_VERSION,
    DeviceInfo,
    Environment,
    Run,
    Settings,
    Target,
    VariantResult,
)
from bsprobe.records.trials import Source
from bsprobe.records.units import format_bytes
from bsprobe.records.variants import Variant, labels


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One run of the fleet."""

    name: str
    """A short name of the device, unique within the fleet."""
    path: str
    """The path of the run, as it was given."""
    device: DeviceInfo
    environment: Environment
    settings: Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The result of one run for one variant."""

    variant: Variant
    member: str
    """The member's name."""
    source: Source
    result: VariantResult | None
    """None if the variant was not probed on this machine."""

    @property
    def images_per_second_per_gpu(self) -> float | None:
        """The throughput of the recommended step divided by the number of GPUs.

        None for predictions, and if nothing is recommended.
        """
        item = None if self.result is None else self.result.recommendation
        trial = None if item is None else item.trial
        if trial is None or trial.measurement is None:
            return None
        rate = trial.measurement.images_per_second
        return None if rate is None else rate / trial.processes


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The network and its inputs, by which variants are grouped."""

    network: str
    """As `Variant.network`."""
    inputs: str
    """As `Variant.described_inputs`."""
    classes: str
    """As `Variant.described_classes`."""
    name: str
    """Network and inputs in short: `deeplabv2-resnet101 at 512x1024`."""

    def describe(self) -> str:
        """Return `deeplabv2-resnet101 · 512 high x 1024 wide · 19 classes`."""
        return " · ".join(filter(None, (self.network, self.inputs, self.classes)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """All runs beside each other, as written to `fleet.json`."""

    schema_version: int = SCHEMA_VERSION
    members: tuple[Member, ...]
    """The smallest memory first."""
    rows: tuple[Row, ...]
    """By subject, then by variant, then in the order of the members."""
    notes: tuple[str, ...]
    """Sentences on missing variants and on differences between the runs besides the machine."""

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """The networks and sizes, in the order of the rows."""
        return tuple(dict.fromkeys(subject_of(row.variant) for row in self.rows))

    def rows_of(self, subject: Subject) -> tuple[Row, ...]:
        """Return the rows of one subject."""
        return tuple(row for row in self.rows if subject_of(row.variant) == subject)

    def member(self, name: str) -> Member:
        """Return a run by its name."""
        return next(member for member in self.members if member.name == name)


def subject_of(variant: Variant) -> Subject:
    """Return the subject of a variant."""
    return Subject(
        network=variant.network,
        inputs=variant.described_inputs,
        classes=variant.described_classes,
        name=variant.subject if variant.axes else variant.network,
    )


def make_fleet(runs: Sequence[tuple[str, Run]]) -> Fleet:
    """Put runs beside each other.

    Args:
        runs: Pairs of a path and the run that was read from it. Equal runs count once.
    """
    distinct: dict[str, Run] = {}
    notes: list[str] = []
    for path, run in runs:
        twin = next((known for known, other in distinct.items() if other == run), None)
        if twin is None:
            distinct[path] = run
        else:
            notes.append(f"{path} is the same run as {twin}; it counts once.")
    ordered = sorted(distinct.items(), key=lambda item: _order(item[1]))
    names = _names([run for _, run in ordered])
    found = [(name, run) for name, (_, run) in zip(names, ordered, strict=True)]
    rows = tuple(_rows(found))
    return Fleet(
        members=tuple(
            Member(
                name=name,
                path=path,
                device=run.device,
                environment=environment_of(run),
                settings=run.settings,
            )
            for name, (path, run) in zip(names, ordered, strict=True)
        ),
        rows=rows,
        notes=(
            *_absences(found, rows),
            *_differences(found),
            *_growing(found),
            *_together(found),
            *notes,
        ),
    )


_Named = Sequence[tuple[str, Run]]
"""The runs in the order of the members, each with its member's name."""


def _order(run: Run) -> tuple[int, str, str]:
    return run.device.capacity_bytes, run.device.name, run.environment.started_at


def _names(runs: Sequence[Run]) -> list[str]:
    """A short name each: the card, its limit if it has one, a number if names are equal."""
    plain = [_short(run) for run in runs]
    counts, seen = Counter(plain), Counter[str]()
    names = []
    for name in plain:
        seen[name] += 1
        names.append(f"{name} ({seen[name]})" if counts[name] > 1 else name)
    return names


def _short(run: Run) -> str:
    device, processes = run.device, run.settings.processes
    name = " ".join(re.sub(r"NVIDIA|GeForce", " ", device.name).split()) or device.name
    name = f"{processes} x {name}" if processes > 1 else name
    limit = "" if device.limit_bytes is None else f", {format_bytes(device.limit_bytes)}"
    return name + limit


def _rows(found: _Named) -> Iterable[Row]:
    variants = dict.fromkeys(result.variant for _, run in found for result in run.results)
    for subject in dict.fromkeys(map(subject_of, variants)):
        for variant in (each for each in variants if subject_of(each) == subject):
            yield from _rows_of_variant(found, variant)


def _rows_of_variant(found: _Named, variant: Variant) -> Iterable[Row]:
    """A row for each run with the variant, an empty one for each machine that lacks it."""
    have = {_machine(run) for _, run in found if _result(run, variant) is not None}
    for name, run in found:
        result = _result(run, variant)
        is_asked = subject_of(variant) in map(subject_of, run.settings.variants)
        if result is None and (_machine(run) in have or not is_asked):
            continue
        have.add(_machine(run))
        yield Row(variant=variant, member=name, source=run.device.source, result=result)


def _machine(run: Run) -> tuple[object, ...]:
    """The key of a machine: runs with one key complement each other."""
    device, settings = run.device, run.settings
    return device.name, device.source, device.limit_bytes, settings.processes, settings.ddp


def _result(run: Run, variant: Variant) -> VariantResult | None:
    return next((result for result in run.results if result.variant == variant), None)


def _absences(found: _Named, rows: Sequence[Row]) -> list[str]:
    """Sentences on variants and networks that are missing on some machines."""
    lines = []
    subjects = dict.fromkeys(subject_of(row.variant) for row in rows)
    for subject in subjects:
        here = [row for row in rows if subject_of(row.variant) == subject]
        names = labels(list(dict.fromkeys(row.variant for row in here)))
        of = "" if len(subjects) == 1 else f" of {subject.name}"
        lacking: dict[tuple[str, ...], list[str]] = {}
        for variant, name in names.items():
            missing = (row for row in here if row.variant == variant and row.result is None)
            if members := tuple(row.member for row in missing):
                lacking.setdefault(members, []).append(name)
        for members, missing_names in lacking.items():
            were = "was" if len(missing_names) == 1 else "were"
            lines.append(
                f"{', '.join(missing_names)}{of} {were} not probed on {', '.join(members)}."
            )
        machines = {_machine(run) for _, run in found if _has(run, subject)}
        others = [name for name, run in found if _machine(run) not in machines]
        if others:
            lines.append(f"{subject.name} was not probed on {', '.join(others)}.")
    return lines


def _has(run: Run, subject: Subject) -> bool:
    return subject in map(subject_of, run.settings.variants)


def _growing(found: _Named) -> list[str]:
    """The sentence on machines on which memory grows in every step."""
    those = [name for name, run in found if any(result.critical_growth for result in run.results)]
    return (
        [f"{', '.join(those)}: memory grows in every step, so no batch is safe."] if those else []
    )


def _together(found: _Named) -> list[str]:
    """The sentence on the figures of machines whose GPUs train together."""
    several = [name for name, run in found if run.processes > 1]
    if not several:
        return []
    what = "batches, peaks and images/s are per GPU, effective batch and LR of all GPUs"
    return [f"{', '.join(several)}: {what}."]


def _asked(run: Run) -> Target:
    return recipe_of(run.settings.variants[0], run.settings.target)


def _takes_the_default(run: Run) -> bool:
    """Return whether batch and rate are those of the network's recipe, if it has one."""
    default = recipe_of(run.settings.variants[0], Target())
    batch_and_rate = attrgetter("batch", "base_batch", "base_learning_rate")
    return bool(batch_and_rate(_asked(run)) == batch_and_rate(default))


def _rate_asked(run: Run) -> str:
    target = _asked(run)
    rate = target.base_learning_rate
    return "none" if rate is None else f"{rate:g} at {target.base_batch}"


_FACTS: tuple[tuple[str, Callable[[Run], object], str], ...] = (
    ("Source", lambda run: run.device.source, "A predicted row is not a measurement."),
    (
        "Wanted effective batch",
        lambda run: _asked(run).batch or "the best that fits",
        "Use and LR are not comparable.",
    ),
    (
        "Reference rate",
        _rate_asked,
        "Rates are not comparable.",
    ),
    ("Rule for the rate", lambda run: run.settings.target.lr_rule or "the optimizer's", ""),
    (
        "Headroom",
        lambda run: f"{run.settings.target.headroom:.0%}",
        "Safe batches leave different shares of the memory free.",
    ),
    ("Images", lambda run: "synthetic" if run.settings.data is None else "real", ""),
    ("Validation", lambda run: run.settings.validation_words, ""),
    (
        "PyTorch",
        lambda run: environment_of(run).torch or "none",
        "Memory may differ between versions.",
    ),
    ("cuDNN", lambda run: environment_of(run).cudnn or "none", ""),
    ("Tried batches", lambda run: f"multiples of {run.settings.batch_multiple}", ""),
    ("bsprobe", lambda run: run.environment.bsprobe, ""),
)
"""Sentences on differences between the runs besides the machine, and on their consequences."""
_OF_THE_RECIPE = ("Wanted effective batch", "Reference rate")
"""Facts that differ between networks by default."""


def _differences(found: _Named) -> list[str]:
    """A sentence on each fact that is not the same in all runs."""
    lines = []
    takes_default = all(_takes_the_default(run) for _, run in found)
    for what, fact, consequence in _FACTS:
        if takes_default and what in _OF_THE_RECIPE:
            continue
        members: dict[str, list[str]] = {}
        for name, run in found:
            members.setdefault(str(fact(run)), []).append(name)
        if len(members) > 1:
            told = "; ".join(f"{value} on {', '.join(names)}" for value, names in members.items())
            lines.append(f"{what} differs: {told}. {consequence}".strip())
    return lines
