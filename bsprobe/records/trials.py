"""Records of one trial: its specification, measurement and failure.

All memory is in bytes and all times are in seconds; `units` formats them.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from bsprobe.records.assumptions import Assumption
from bsprobe.records.batch_forms import BatchForm
from bsprobe.records.checkpointing import Checkpointed
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.failures import RAN, Certainty, Outcome, is_evidence
from bsprobe.records.scripts import ScriptFacts
from bsprobe.records.units import Resolution
from bsprobe.records.variants import Variant


class Source(StrEnum):
    """The origin of figures; a table that mixes both marks them."""

    MEASURED = "measured"
    PREDICTED = "predicted"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSource:
    """A data set of real images for the batches."""

    root: str
    """A folder in Cityscapes' layout; its train split is used."""
    subset: int | None = None
    """The number of images to use, from the first; None for all."""


class Ddp(StrEnum):
    """The handling of parameters without a gradient in DistributedDataParallel."""

    DEFAULT = "default"
    """Unused parameters are an error in the second step."""
    FIND_UNUSED_PARAMETERS = "find-unused-parameters"
    """Unused parameters are searched in the graph of every step."""
    STATIC_GRAPH = "static-graph"
    """Unused parameters are recorded in the first step and must stay the same. Gradients cannot be
    accumulated: the first backward pass under `no_sync` raises an internal error in PyTorch."""

    @property
    def arguments(self) -> tuple[str, ...]:
        """Arguments of DistributedDataParallel in addition to the network."""
        return () if self is Ddp.DEFAULT else (self.value.replace("-", "_") + "=True",)


VALIDATION_PHASE = "validation"
"""The phase of a trial after its training steps."""


class Purpose(StrEnum):
    """The purpose of a trial."""

    SEARCH = "search"
    PROOF = "proof"
    """A trial in a fresh process that proves one side of the boundary."""
    SAFE = "safe"
    """A trial of the batch that should leave the headroom free, if the search did not time it."""
    VALIDATION = "validation"
    """As `RECOMMENDED`, with another batch of validation images after the training steps."""
    RECOMMENDED = "recommended"
    """A trial with the recommended micro-batch and accumulation."""
    COMPARISON = "comparison"
    """As `RECOMMENDED`, but on synthetic batches: real images should take no more memory."""


REPEATED = (Purpose.COMPARISON, Purpose.VALIDATION)
"""Purposes of trials that repeat the training steps of another trial."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Validation images that the network classifies after the training steps of a trial."""

    resolution: Resolution
    """The size of the images, and of the predictions."""
    batch_size: int = 1
    """Images in one forward pass."""

    def describe(self) -> str:
        """Return the batch and the size: `2 x 1024x2048`."""
        return f"{self.batch_size} x {self.resolution}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialSpec:
    """A variant at one batch size, with all settings of the trial."""

    variant: Variant
    batch_size: int
    """The micro-batch: images in one forward pass."""
    accumulation_steps: int = 1
    """Micro-batches per optimizer update."""
    processes: int = 1
    """Processes that train together in DistributedDataParallel, each with its own micro-batch."""
    ddp: Ddp = Ddp.DEFAULT
    warmup_steps: int = 1
    measured_steps: int = 3
    validation: Validation | None = None
    """None for no validation after the training steps."""
    evaluation_resolution: Resolution | None = None
    """Always None since version 0.3. Older trials ended with a forward pass of the training batch,
    whose predictions were resized to this size."""
    data: DataSource | None = None
    """None for synthetic batches."""
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """The peak memory of one or more steps."""

    allocated_bytes: int
    reserved_bytes: int | None
    """Includes PyTorch's cache; None on devices without a caching allocator."""

    @property
    def held_bytes(self) -> int:
        """The bytes that PyTorch holds: reserved, else allocated."""
        return self.allocated_bytes if self.reserved_bytes is None else self.reserved_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """Properties of a built network that the recommendation needs."""

    parameters: int
    groups: tuple[tuple[str, float], ...]
    """Per parameter group: its name and its multiple of the base learning rate."""
    parameters_without_gradient: int = 0
    """The number of trainable parameter tensors that got no gradient in any step."""
    first_without_gradient: str | None = None
    """The name of the first of these parameters, in the order of the network."""
    assumptions: tuple[Assumption, ...] = ()
    """The assumptions of a prediction; empty for a measurement."""
    batch_norms: int | None = None
    """The number of BatchNorm modules that use batch statistics; None in older files."""
    checkpointed: tuple[Checkpointed, ...] = ()
    """The modules that are recomputed; empty without activation checkpointing."""
    batch_form: BatchForm | None = None
    """The form of user-supplied batches; None without them and in older files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The reason for the failure of a trial."""

    message: str
    certainty: Certainty
    evidence: str
    phase: str
    """The phase of the failure: `building`, `step 1`, `validation` ..."""
    traceback: str | None = None
    place: str | None = None
    """The innermost line of the user's files in the traceback: `unet.py, line 12`; or None."""

    @property
    def words(self) -> str:
        """The message with the place in the user's files, if there is one."""
        return self.message if self.place is None else f"{self.message} ({self.place})"

    def proves(self, outcome: Outcome, kind: DeviceKind) -> bool:
        """Return whether a resumed run can rely on the outcome of the trial.

        Earlier versions classified every death of a process as out of memory.

        Args:
            outcome: The outcome of the trial.
            kind: The kind of device that the trial ran on.
        """
        if outcome is Outcome.OUT_OF_MEMORY:
            return is_evidence(kind, self.evidence)
        return outcome is not Outcome.HOST_MEMORY and self.certainty is not Certainty.UNEXPLAINED


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated:
    """The result of the validation after the training steps: a peak or a failure."""

    peak: Peak | None = None
    """Includes all that training holds and leaves reserved."""
    outcome: Outcome = Outcome.FITS
    failure: Failure | None = None

    @property
    def fits(self) -> bool:
        """True if the pass ran beside the state of the training."""
        return self.peak is not None

    def peak_bytes(self, outside_allocator_bytes: int) -> int | None:
        """Return the peak bytes on the device; None if the pass failed.

        Args:
            outside_allocator_bytes: Held outside of PyTorch's allocator.
        """
        if self.peak is None:
            return None
        return self.peak.held_bytes + outside_allocator_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The measurements of a trial that ran."""

    model: ModelFacts
    first_step: Peak
    steady: Peak
    """The peak over all steps after the first."""
    validation: Validated | None = None
    """The validation after the training steps; no peak of this record includes it."""
    evaluation: Peak | None = None
    """The peak of the last pass of trials before version 0.3, which counts as a training peak."""
    outside_allocator_bytes: int = 0
    """Held by the process on the device but not by PyTorch: context, kernels, libraries."""
    other_processes_bytes: int | None = None
    allocator_retries: int = 0
    allocator_ooms: int = 0
    updates_applied: int
    """Optimizer updates that changed the weights; a GradScaler skips some."""
    steps: int
    allocated_after_steps: tuple[int, ...] = ()
    """Bytes of tensors at the end of each step, on a CPU resident memory; empty in older files."""
    step_seconds: tuple[float, ...] = ()
    """The duration of each measured step with all its micro-batches; empty for predictions."""
    images_per_second: float | None = None
    """From the median step; None for predictions."""
    loader_images_per_second: float | None = None
    """The rate of the data loader alone; None for synthetic batches."""

    @property
    def peak_allocated_bytes(self) -> int:
        """Peak bytes of tensors in any phase."""
        return max(peak.allocated_bytes for peak in self._peaks())

    @property
    def peak_reserved_bytes(self) -> int | None:
        """Peak bytes reserved by PyTorch's allocator in any phase."""
        reserved = [p.reserved_bytes for p in self._peaks() if p.reserved_bytes is not None]
        return max(reserved, default=None)

    @property
    def peak_bytes(self) -> int:
        """Peak bytes on the device: reserved (else allocated) plus outside the allocator."""
        reserved = self.peak_reserved_bytes
        inside = self.peak_allocated_bytes if reserved is None else reserved
        return inside + self.outside_allocator_bytes

    def _peaks(self) -> tuple[Peak, ...]:
        phases = (self.first_step, self.steady, self.evaluation)
        return tuple(peak for peak in phases if peak is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A finished trial, with either a measurement or a failure."""

    spec: TrialSpec
    outcome: Outcome
    source: Source
    purpose: Purpose
    fresh_process: bool
    """True if the trial was the first of its process; always true for predictions."""
    measurement: Measurement | None
    failure: Failure | None
    started_at: str
    wall_seconds: float
    budget_bytes: int | None = None
    """The bytes that PyTorch's allocator may reserve: the memory limit minus the memory outside the
    allocator when the limit was applied. None without a limit."""
    rank: int | None = None
    """With several processes: the rank of the failure or peak. `images_per_second` covers all
    ranks."""
    script: ScriptFacts | None = None
    """The facts of the user's script; None for a trial of a network."""

    def __post_init__(self) -> None:
        """Check that the outcome matches the measurement and the failure.

        Raises:
            ValueError: A trial that ran lacks a measurement or has a failure, or the reverse.
        """
        if self.ran != (self.measurement is not None) or self.ran == (self.failure is not None):
            only = "a measurement" if self.ran else "a failure"
            raise ValueError(f"a trial with outcome '{self.outcome}' must have only {only}")

    @property
    def processes(self) -> int:
        """The processes that trained together; a user's command starts them by itself."""
        return self.spec.processes if self.script is None else self.script.ranks

    @property
    def ran(self) -> bool:
        """True if all steps ran."""
        return self.outcome in RAN


def with_validation(trial: Trial, spec: TrialSpec, tried: Validated) -> Trial:
    """Return a trial that ran without its validation, with the result of the validation.

    Args:
        trial: The trial; one that did not run gets no result.
        spec: The specification with the validation.
        tried: The result.
    """
    measured = trial.measurement
    if measured is not None:
        measured = replace(measured, validation=tried)
    return replace(trial, spec=spec, measurement=measured)
