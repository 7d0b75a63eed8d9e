"""Variants of a training, and the axes along which they differ."""

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

from bsprobe.records.errors import UsageError
from bsprobe.records.scripts import Script
from bsprobe.records.units import Resolution
from bsprobe.records.workload import (
    CLASSES,
    LOSSES,
    NOTHING_OWN,
    OwnParts,
    Problem,
    has_recipe,
    problem_of,
)


class Precision(StrEnum):
    """The number format of the forward pass; parameters are always fp32."""

    FP32 = "fp32"
    AMP_FP16 = "amp-fp16"
    AMP_BF16 = "amp-bf16"


class Norm(StrEnum):
    """The normalisation layers of the network."""

    BATCH = "batch"
    SYNC_BATCH = "sync-batch"
    """BatchNorm with statistics over the micro-batches of all processes."""
    GROUP = "group"
    """GroupNorm in fp32, as autocast runs it."""
    GROUP_AMP = "group-amp"
    """GroupNorm in the dtype of its input."""
    INSTANCE = "instance"
    FROZEN = "frozen"
    """BatchNorm with fixed statistics, folded to one scale and one shift per channel."""
    AS_BUILT = "as-built"
    """The network's own norms, unchanged."""


class Checkpointing(StrEnum):
    """Recomputation of each block's activations in the backward pass."""

    OFF = "off"
    ON = "on"


class MemoryFormat(StrEnum):
    """The memory layout of images and activations."""

    NCHW = "nchw"
    NHWC = "nhwc"


class OptimizerName(StrEnum):
    """The optimizer."""

    SGD = "sgd"
    ADAMW = "adamw"


class CudnnBenchmark(StrEnum):
    """The setting of `torch.backends.cudnn.benchmark`."""

    OFF = "off"
    ON = "on"


class LossAt(StrEnum):
    """The resolution at which logits and labels are compared."""

    LABELS = "labels"
    """Logits are upsampled to the labels."""
    LOGITS = "logits"
    """Labels are downsampled to the logits, as in DeepLabV2's training."""


RGB = 3
DEFAULT_RESOLUTION = Resolution(height=512, width=1024)
"""Half of Cityscapes' images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """All settings of a training that affect its memory, except the batch size."""

    model: str
    resolution: Resolution | None
    """None with user-supplied batches, and until the network is built if the network defines the
    size of its images."""
    precision: Precision = Precision.FP32
    norm: Norm = Norm.BATCH
    checkpointing: Checkpointing = Checkpointing.OFF
    memory_format: MemoryFormat = MemoryFormat.NCHW
    optimizer: OptimizerName = OptimizerName.SGD
    cudnn_benchmark: CudnnBenchmark = CudnnBenchmark.OFF
    loss_at: LossAt = LossAt.LABELS
    classes: int | None = 19
    """The classes of the labels; None until they are counted from the logits of the network."""
    channels: int = RGB
    """The channels of the images."""
    labels_of: Problem | None = None
    """The problem found from the logits, if neither a built-in loss nor the name decides it."""
    own: OwnParts = NOTHING_OWN
    script: Script | None = None
    """The user's own command, or None. The other fields then say nothing of the network: show
    only `axes`, `network`, `inputs` and what is derived from them."""

    @property
    def axes(self) -> tuple["Axis", ...]:
        """The axes whose values are known: none of a user's own command."""
        return AXES if self.script is None else ()

    @property
    def has_recipe(self) -> bool:
        """True for the networks with a training recipe: the built-in DeepLabV2 networks."""
        return self.script is None and has_recipe(self.model)

    @property
    def problem(self) -> Problem:
        """The problem of the network: from the loss, else from the logits, else from the name."""
        return LOSSES.get(self.own.loss or "") or self.labels_of or problem_of(self.model)

    @property
    def described_classes(self) -> str:
        """The number of classes: `19 classes`, or `classes by its logits` if not yet counted.

        Empty for a user's own command.
        """
        if self.script is not None:
            return ""
        if self.classes is None:
            return "classes by its logits"
        return f"{self.classes} class{'' if self.classes == 1 else 'es'}"

    @property
    def is_complete(self) -> bool:
        """True if size and classes are known without building the network."""
        has_size = self.resolution is not None or self.own.batches is not None
        return has_size and self.classes is not None

    @property
    def network(self) -> str:
        """The model and its arguments: `package.module:factory(width=32)`; or the command."""
        if self.script is not None:
            return str(self.script)
        arguments = ", ".join(f"{name}={text}" for name, text in self.own.model_args)
        return f"{self.model}({arguments})" if arguments else self.model

    @property
    def inputs(self) -> str:
        """The inputs: `512x1024`, `4x512x1024`, or the name of the user-supplied batches.

        Empty for a user's own command.
        """
        if self.script is not None:
            return ""
        if self.resolution is None:
            return self.own.batches or "its own size"
        channels = "" if self.channels == RGB else f"{self.channels}x"
        return f"{channels}{self.resolution}"

    @property
    def described_inputs(self) -> str:
        """The inputs with the names of the sides: `512 high x 1024 wide`."""
        if self.resolution is None:
            own_batches = f"batches of {self.inputs}{self.drawn_words}"
            return own_batches if self.own.batches else self.inputs
        plural = "" if self.channels == 1 else "s"
        channels = "" if self.channels == RGB else f"{self.channels} channel{plural} · "
        return f"{channels}{self.resolution.describe()}"

    @property
    def drawn_words(self) -> str:
        """The sizes of user-supplied batches, in brackets; empty if they are all alike."""
        drawn = self.own.drawn
        return f" ({drawn.describe()})" if drawn is not None and drawn.varies else ""

    @property
    def subject(self) -> str:
        """The network and its inputs: `deeplabv2-resnet101 at 512x1024`; or `train.py`."""
        if self.script is not None:
            return self.model
        return f"{self.network} {'on' if self.resolution is None else 'at'} {self.inputs}"

    @property
    def title(self) -> str:
        """The network and its inputs for a picture: `deeplabv2-resnet101, 512x1024`."""
        return self.subject if self.script is not None else f"{self.network}, {self.inputs}"

    @property
    def comparison_group(self) -> tuple[str, Resolution | None, Norm]:
        """Model, resolution and norm: variants are ranked only if these are equal."""
        return self.model, self.resolution, self.norm

    @property
    def size(self) -> Resolution:
        """The resolution of a variant that has one."""
        assert self.resolution is not None, "the resolution is unknown"  # noqa: S101 - a precondition
        return self.resolution

    @property
    def logits(self) -> int:
        """The number of logits of a network whose classes are known."""
        assert self.classes is not None, "the classes are unknown"  # noqa: S101 - a precondition
        return self.classes

    @property
    def label_classes(self) -> int:
        """The number of classes in synthetic labels: at least two, also for a single logit."""
        return max(2, self.classes or CLASSES[self.problem])


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A setting that can take several values in a run."""

    field: str
    """The field of `Variant`, and the column in the result files."""
    kind: type[StrEnum]
    defaults: tuple[StrEnum, ...]
    description: str
    """A sentence for `--help`."""
    label_prefix: str = ""
    """The prefix of the value in a label, for values like "on"."""
    words: tuple[tuple[StrEnum, str], ...] = ()
    """The text of values that a label does not show as they are."""

    @property
    def option(self) -> str:
        """The command-line option that sets this axis."""
        return "--" + self.field.replace("_", "-")

    def label(self, value: StrEnum) -> str:
        """Return the text of a value in a label."""
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
        description="Resolution of the loss: logits upsampled to the labels, or labels downsampled "
        "to the logits.",
        label_prefix="loss at ",
    ),
)
_LABELLED_ALWAYS = ("precision", "norm")


def labels(variants: Sequence[Variant], *, without: Collection[str] = ()) -> dict[Variant, str]:
    """Return a short name for each variant: precision and norm, then whatever is not the default.

    A user's own command has the name of its script.

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
            + [axis.label(getattr(variant, axis.field)) for axis in shown if axis in variant.axes]
        )
        or variant.model
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
        for axis in one.axes
        if axis.field not in _LABELLED_ALWAYS
        and not _differs(variants, axis.field)
        and (getattr(one, axis.field),) != axis.defaults
    }
    if one.axes and {variant.norm for variant in variants} == {Norm.AS_BUILT}:
        shared["norm"] = "norm as built"
    return shared


def parse_choices(axis: Axis, text: str) -> tuple[StrEnum, ...]:
    """Parse a comma-separated list of an axis's values.

    Raises:
        UsageError: A value is unknown (the nearest one is suggested), or the list is empty.
    """
    known = [str(value) for value in axis.kind]
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError(f"{axis.option} needs a value", hint=f"choose among {', '.join(known)}")
    for name in names:
        if name not in known:
            raise unknown_value(axis.option, name, known)
    return tuple(dict.fromkeys(axis.kind(name) for name in names))


_MOST_CHOICES = 20
"""Longer lists of values (networks of a library) are not shown in full."""
_MOST_NEAR = 6


def unknown_value(what: str, value: str, known: Sequence[str]) -> UsageError:
    """Make the error for an unknown value, with the nearest known ones in the hint.

    Args:
        what: The option, for the message.
        value: The unknown value.
        known: The known values.
    """
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
