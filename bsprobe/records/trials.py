"""One trial: what is asked of it, and what came of it; frozen, JSON-able.

Bytes are bytes and seconds are seconds here; they become "GiB" in `units` alone.
"""

from dataclasses import dataclass
from enum import StrEnum

from bsprobe.records.assumptions import Assumption
from bsprobe.records.checkpointing import Checkpointed
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.failures import RAN, Certainty, Outcome, is_evidence
from bsprobe.records.units import Resolution
from bsprobe.records.variants import Variant


class Source(StrEnum):
    """The origin of figures; the two are never mixed in one table without saying so."""

    MEASURED = "measured"
    PREDICTED = "predicted"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSource:
    """Real images to make the batches of."""

    root: str
    """A folder in Cityscapes' layout; its train split is used."""
    subset: int | None = None
    """Only so many images, the first ones; None: all."""


class Ddp(StrEnum):
    """The way in which DistributedDataParallel treats parameters that get no gradient."""

    DEFAULT = "default"
    """They are an error in the second step."""
    FIND_UNUSED_PARAMETERS = "find-unused-parameters"
    """They are looked for in the graph of every step."""
    STATIC_GRAPH = "static-graph"
    """They are noted in the first step, and must be the same in all. Gradients cannot be
    accumulated: the first backward pass under `no_sync` is an internal error of PyTorch."""

    @property
    def arguments(self) -> tuple[str, ...]:
        """Arguments of DistributedDataParallel in addition to the network."""
        return () if self is Ddp.DEFAULT else (self.value.replace("-", "_") + "=True",)


class Purpose(StrEnum):
    """The reason why a trial was run."""

    SEARCH = "search"
    PROOF = "proof"
    """In a fresh process, to prove one side of the boundary."""
    SAFE = "safe"
    """The batch that should leave the headroom free, where the search had not timed it."""
    RECOMMENDED = "recommended"
    """As training will run it: with the recommended micro-batch and accumulation."""
    COMPARISON = "comparison"
    """As recommended, but on synthetic batches: real images should take no more memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialSpec:
    """One trial: a variant at one batch size. Equal specs are the same trial."""

    variant: Variant
    batch_size: int
    """The micro-batch: images in one forward pass."""
    accumulation_steps: int = 1
    """Micro-batches per optimizer update."""
    processes: int = 1
    """The number that train together in DistributedDataParallel, each with its own micro-batch."""
    ddp: Ddp = Ddp.DEFAULT
    warmup_steps: int = 1
    measured_steps: int = 3
    evaluation_resolution: Resolution | None = None
    """An evaluation pass with predictions at this size follows the training steps, if given."""
    data: DataSource | None = None
    """None: synthetic batches."""
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """The most memory held during some steps."""

    allocated_bytes: int
    reserved_bytes: int | None
    """With PyTorch's cache; None on devices that have no caching allocator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """Facts of a built network that the recommendation needs."""

    parameters: int
    groups: tuple[tuple[str, float], ...]
    """Per parameter group: its name and its multiple of the base learning rate."""
    parameters_without_gradient: int = 0
    """The trainable parameter tensors that got no gradient in any step."""
    first_without_gradient: str | None = None
    """The name of the first of them, in the order of the network."""
    assumptions: tuple[Assumption, ...] = ()
    """The assumptions under which a prediction was made; none of a measurement."""
    batch_norms: int | None = None
    """The BatchNorm modules whose statistics are those of a batch; None in older files."""
    checkpointed: tuple[Checkpointed, ...] = ()
    """The modules that are recomputed; none without activation checkpointing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The measurements of a trial that ran."""

    model: ModelFacts
    first_step: Peak
    steady: Peak
    """Over all steps after the first."""
    evaluation: Peak | None = None
    outside_allocator_bytes: int = 0
    """Held by the process on the device but not by PyTorch: context, kernels, libraries."""
    other_processes_bytes: int | None = None
    allocator_retries: int = 0
    allocator_ooms: int = 0
    updates_applied: int
    """Optimizer updates that changed the weights; a GradScaler skips some."""
    steps: int
    step_seconds: tuple[float, ...] = ()
    """Seconds of each measured step (all of its micro-batches); empty for predictions."""
    images_per_second: float | None = None
    """From the median step; None for predictions."""
    loader_images_per_second: float | None = None
    """The rate of the data loader by itself; None for synthetic batches."""

    @property
    def peak_allocated_bytes(self) -> int:
        """The most that tensors took in any phase."""
        return max(peak.allocated_bytes for peak in self._peaks())

    @property
    def peak_reserved_bytes(self) -> int | None:
        """The most that PyTorch's allocator took from the device in any phase."""
        reserved = [p.reserved_bytes for p in self._peaks() if p.reserved_bytes is not None]
        return max(reserved, default=None)

    @property
    def peak_bytes(self) -> int:
        """The most the trial held of the device: reserved (else allocated), and outside."""
        reserved = self.peak_reserved_bytes
        inside = self.peak_allocated_bytes if reserved is None else reserved
        return inside + self.outside_allocator_bytes

    def _peaks(self) -> tuple[Peak, ...]:
        phases = (self.first_step, self.steady, self.evaluation)
        return tuple(peak for peak in phases if peak is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The reason why a trial did not run to its end."""

    message: str
    certainty: Certainty
    evidence: str
    phase: str
    """The phase in which it was: `building`, `step 1`, `evaluation` …"""
    traceback: str | None = None
    place: str | None = None
    """The last line of the user's own files that ran: `unet.py, line 12`; None where none did."""

    @property
    def words(self) -> str:
        """The message, and the place in the user's files where there is one."""
        return self.message if self.place is None else f"{self.message} ({self.place})"

    def proves(self, outcome: Outcome, kind: DeviceKind) -> bool:
        """True where it says something of the batch, so that a run may go on with its outcome.

        Earlier versions took every death of a process for the end of the memory.

        Args:
            outcome: Of the trial.
            kind: The kind of device that it ran on.
        """
        if outcome is Outcome.OUT_OF_MEMORY:
            return is_evidence(kind, self.evidence)
        return outcome is not Outcome.HOST_MEMORY and self.certainty is not Certainty.UNEXPLAINED


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A finished trial. Exactly one of measurement and failure is there."""

    spec: TrialSpec
    outcome: Outcome
    source: Source
    purpose: Purpose
    fresh_process: bool
    """True where nothing ran before it in its process; always so for predictions."""
    measurement: Measurement | None
    failure: Failure | None
    started_at: str
    wall_seconds: float
    budget_bytes: int | None = None
    """Bytes that PyTorch's allocator might reserve: the memory limit less what lay outside the
    allocator when it was applied. None where there was no limit."""
    rank: int | None = None
    """With several processes: whose failure this is, or whose peak; images/s are of all."""

    def __post_init__(self) -> None:
        """Refuse a record that contradicts itself.

        Raises:
            ValueError: Figures of a trial that did not run, or none of one that did.
        """
        if self.ran != (self.measurement is not None) or self.ran == (self.failure is not None):
            raise ValueError(f"a trial that ended '{self.outcome}' with the wrong figures")

    @property
    def ran(self) -> bool:
        """True where all of its steps ran."""
        return self.outcome in RAN
