"""Variants of a training: the axes, one point in their product, and the product itself."""

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

from bsprobe.records.errors import UsageError
from bsprobe.records.units import Resolution
from bsprobe.records.workload import (
    CLASSES,
    LOSSES,
    NOTHING_OWN,
    OwnParts,
    Problem,
    problem_of,
)


class Precision(StrEnum):
    """The number format of the forward pass; parameters are fp32 in all of them."""

    FP32 = "fp32"
    AMP_FP16 = "amp-fp16"
    AMP_BF16 = "amp-bf16"


class Norm(StrEnum):
    """The normalisation layer that the network is built with."""

    BATCH = "batch"
    SYNC_BATCH = "sync-batch"
    """BatchNorm whose statistics see the micro-batches of all processes."""
    GROUP = "group"
    """GroupNorm as autocast runs it: in fp32."""
    GROUP_AMP = "group-amp"
    """GroupNorm kept in the dtype of its input."""
    INSTANCE = "instance"
    FROZEN = "frozen"
    """BatchNorm with fixed statistics, folded to one scale and one shift per channel."""
    AS_BUILT = "as-built"
    """The norms that the network is built with, whatever they are."""


class Checkpointing(StrEnum):
    """Recomputing each block in the backward pass instead of remembering it."""

    OFF = "off"
    ON = "on"


class MemoryFormat(StrEnum):
    """The order of the four dimensions of images and activations in memory."""

    NCHW = "nchw"
    NHWC = "nhwc"


class OptimizerName(StrEnum):
    """The optimizer."""

    SGD = "sgd"
    ADAMW = "adamw"


class CudnnBenchmark(StrEnum):
    """Timing of cuDNN's algorithms on first use (`torch.backends.cudnn.benchmark`)."""

    OFF = "off"
    ON = "on"


class LossAt(StrEnum):
    """The resolution at which logits and labels are compared."""

    LABELS = "labels"
    """Logits are upsampled to the labels."""
    LOGITS = "logits"
    """Labels are thinned out to the logits, as DeepLabV2's own training does."""


RGB = 3
DEFAULT_RESOLUTION = Resolution(height=512, width=1024)
"""Half of Cityscapes' images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to train: everything that decides about memory, except the batch size."""

    model: str
    resolution: Resolution | None
    """None where the batches are your own: then they say what they measure. None, too, until the
    network is built, where only the network knows the size of its images."""
    precision: Precision = Precision.FP32
    norm: Norm = Norm.BATCH
    checkpointing: Checkpointing = Checkpointing.OFF
    memory_format: MemoryFormat = MemoryFormat.NCHW
    optimizer: OptimizerName = OptimizerName.SGD
    cudnn_benchmark: CudnnBenchmark = CudnnBenchmark.OFF
    loss_at: LossAt = LossAt.LABELS
    classes: int | None = 19
    """Of the labels; None until the network is built and its logits are counted."""
    channels: int = RGB
    """Of the images."""
    labels_of: Problem | None = None
    """The problem that the logits tell, where neither a built-in loss nor the name does."""
    own: OwnParts = NOTHING_OWN

    @property
    def problem(self) -> Problem:
        """The problem that the network solves: what the loss says, its logits, else its name."""
        return LOSSES.get(self.own.loss or "") or self.labels_of or problem_of(self.model)

    @property
    def described_classes(self) -> str:
        """The number of classes: `19 classes`, `classes by its logits` until they are counted."""
        if self.classes is None:
            return "classes by its logits"
        return f"{self.classes} class{'' if self.classes == 1 else 'es'}"

    @property
    def is_complete(self) -> bool:
        """True where nothing is left that only the network tells."""
        has_size = self.resolution is not None or self.own.batches is not None
        return has_size and self.classes is not None

    @property
    def network(self) -> str:
        """The model and its arguments: `package.module:factory(width=32)`."""
        arguments = ", ".join(f"{name}={text}" for name, text in self.own.model_args)
        return f"{self.model}({arguments})" if arguments else self.model

    @property
    def inputs(self) -> str:
        """Its inputs: `512x1024`, `4x512x1024`, or the name of your own batches."""
        if self.resolution is None:
            return self.own.batches or "its own size"
        channels = "" if self.channels == RGB else f"{self.channels}x"
        return f"{channels}{self.resolution}"

    @property
    def described_inputs(self) -> str:
        """As `inputs`, saying which number is which."""
        if self.resolution is None:
            return f"batches of {self.inputs}" if self.own.batches else self.inputs
        plural = "" if self.channels == 1 else "s"
        channels = "" if self.channels == RGB else f"{self.channels} channel{plural} · "
        return f"{channels}{self.resolution.describe()}"

    @property
    def subject(self) -> str:
        """The network and its inputs: `deeplabv2-resnet101 at 512x1024`."""
        return f"{self.network} {'on' if self.resolution is None else 'at'} {self.inputs}"

    @property
    def comparison_group(self) -> tuple[str, Resolution | None, Norm]:
        """The key of variants that can be compared: model, resolution and norm."""
        return self.model, self.resolution, self.norm

    @property
    def size(self) -> Resolution:
        """The resolution, where the images are ours or come from a data set."""
        assert self.resolution is not None, "own batches have no resolution"  # noqa: S101 - ours to see to
        return self.resolution

    @property
    def logits(self) -> int:
        """The number of logits that a network is built with, where the network does not decide."""
        assert self.classes is not None, "only the network tells its classes"  # noqa: S101 - ours to see to
        return self.classes

    @property
    def label_classes(self) -> int:
        """The number of classes in labels that are made for it: two where there is one logit."""
        return max(2, self.classes or CLASSES[self.problem])


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One setting that can take several values in a run."""

    field: str
    """The field of `Variant`, which is also the column of the result files."""
    kind: type[StrEnum]
    defaults: tuple[StrEnum, ...]
    description: str
    """The meaning of the choice, in a sentence for `--help`."""
    label_prefix: str = ""
    """Put before the value in a label where the bare value would say nothing ("on")."""
    words: tuple[tuple[StrEnum, str], ...] = ()
    """Values that a label has other words for."""

    @property
    def option(self) -> str:
        """The command-line option that sets this axis."""
        return "--" + self.field.replace("_", "-")

    def label(self, value: StrEnum) -> str:
        """A value as a label shows it."""
        return self.label_prefix + dict(self.words).get(value, str(value))


AXES = (
    Axis(
        field="precision",
        kind=Precision,
        defaults=(Precision.FP32, Precision.AMP_FP16),
        description="Number format of the forward pass.",
    ),
    Axis(
        field="norm",
        kind=Norm,
        defaults=(Norm.BATCH, Norm.GROUP),
        description="Normalisation layer the network is built with.",
        words=((Norm.AS_BUILT, "as built"),),
    ),
    Axis(
        field="checkpointing",
        kind=Checkpointing,
        defaults=(Checkpointing.OFF,),
        description="Recompute each block of the network in the backward pass.",
        label_prefix="checkpointing ",
    ),
    Axis(
        field="memory_format",
        kind=MemoryFormat,
        defaults=(MemoryFormat.NCHW,),
        description="Memory layout of images and activations.",
    ),
    Axis(
        field="optimizer",
        kind=OptimizerName,
        defaults=(OptimizerName.SGD,),
        description="Optimizer.",
    ),
    Axis(
        field="cudnn_benchmark",
        kind=CudnnBenchmark,
        defaults=(CudnnBenchmark.OFF,),
        description="Let cuDNN time its algorithms on first use.",
        label_prefix="cudnn-benchmark ",
    ),
    Axis(
        field="loss_at",
        kind=LossAt,
        defaults=(LossAt.LABELS,),
        description="Resolution of the loss: logits upsampled to the labels, or labels thinned out "
        "to the logits.",
        label_prefix="loss at ",
    ),
)
_LABELLED_ALWAYS = ("precision", "norm")


def labels(variants: Sequence[Variant], *, without: Collection[str] = ()) -> dict[Variant, str]:
    """Return a short name for each variant: precision and norm, then whatever is not the default.

    Args:
        variants: Variants of one run.
        without: Fields of axes that the names leave out.
    """
    shown = [
        axis
        for axis in AXES
        if axis.field not in without
        and (
            axis.field in _LABELLED_ALWAYS
            or {getattr(variant, axis.field) for variant in variants} != set(axis.defaults)
        )
    ]
    whole = [field for field in ("model", "resolution") if _differs(variants, field)]
    return {
        variant: " / ".join(
            [str(getattr(variant, field)) for field in whole]
            + [axis.label(getattr(variant, axis.field)) for axis in shown]
        )
        for variant in variants
    }


def shared_settings(variants: Sequence[Variant]) -> dict[str, str]:
    """Return the settings that all variants share and that are no default of their axis.

    Precision and norm are left out, except for a norm that the network was built with.

    Returns:
        Their labels, by the fields of their axes.
    """
    one = variants[0]
    shared = {
        axis.field: axis.label(getattr(one, axis.field))
        for axis in AXES
        if axis.field not in _LABELLED_ALWAYS
        and not _differs(variants, axis.field)
        and (getattr(one, axis.field),) != axis.defaults
    }
    if {variant.norm for variant in variants} == {Norm.AS_BUILT}:
        shared["norm"] = "norm as built"
    return shared


def parse_choices(axis: Axis, text: str) -> tuple[StrEnum, ...]:
    """Parse a comma-separated list of an axis's values.

    Raises:
        UsageError: A value is unknown (the nearest known one is suggested) or none is given.
    """
    known = [str(value) for value in axis.kind]
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError(f"{axis.option} names no value", hint=f"choose among {', '.join(known)}")
    for name in names:
        if name not in known:
            raise unknown_value(axis.option, name, known)
    return tuple(dict.fromkeys(axis.kind(name) for name in names))


_MOST_CHOICES = 20
"""More than these are not listed: networks of a library, for example."""
_MOST_NEAR = 6


def unknown_value(what: str, value: str, known: Sequence[str]) -> UsageError:
    """The error for a value that is none of the known ones, suggesting the nearest."""
    near = difflib.get_close_matches(value.lower(), known, n=_MOST_NEAR, cutoff=0.5)
    if len(known) > _MOST_CHOICES:
        choices = f"there are {len(known)}, such as {', '.join(near[1:] or known[:_MOST_NEAR])}"
        hint = f"did you mean {near[0]}? {choices[0].upper()}{choices[1:]}" if near else choices
    else:
        choices = ", ".join(known)
        hint = f"did you mean {near[0]}? Known: {choices}" if near else f"choose among {choices}"
    return UsageError(f"{what}: '{value}' is unknown", hint=hint)


def _differs(variants: Sequence[Variant], field: str) -> bool:
    return len({getattr(variant, field) for variant in variants}) > 1
