"""Variants of a training: the axes, one point in their product, and the product itself."""

import difflib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from bsprobe.records.bounds import ASKED
from bsprobe.records.errors import UsageError
from bsprobe.records.units import Resolution
from bsprobe.records.workload import (
    CLASSES,
    HUGGING_FACE,
    LOSSES,
    NOTHING_OWN,
    OwnParts,
    Problem,
    is_told_by_logits,
    keeps_own_norm,
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
    own: OwnParts = NOTHING_OWN

    @property
    def problem(self) -> Problem:
        """The problem that the network solves: what the loss says, else its name."""
        return _problem(self.model, self.own)

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


def matrix(
    *,
    models: Sequence[str],
    resolutions: Sequence[Resolution | None] | None,
    choices: Mapping[str, Sequence[StrEnum]],
    processes: int = 1,
    channels: int = RGB,
    own: OwnParts = NOTHING_OWN,
) -> tuple[Variant, ...]:
    """The product of all lists, in the order of the axes, without repetitions.

    Args:
        models: Names of models.
        resolutions: Image sizes, None among them for batches of your own; None: each network's
            default.
        choices: For axes that do not keep their default: field name to values; no norms, or none
            at all, for each network's own default.
        processes: How many train together.
        channels: Of the images.
        own: What is not ours.

    Raises:
        UsageError: A model that keeps its own norm is to be built in another, one process is to
            synchronise its statistics, or a part of the user's own leaves an axis or a model
            without meaning.
    """
    norms_of = {model: _norms(model, choices.get("norm")) for model in models}
    for model, norms in norms_of.items():
        _require_others(norms, processes)
        _require_norm_for(model, norms)
        _require_loss_for(model, own.loss)
    _require_meaning(choices, own)
    variants = [
        Variant(
            model=model,
            resolution=resolution,
            classes=_classes(model, own),
            channels=channels,
            own=own,
            **{axis.field: value for axis, value in zip(AXES, values, strict=True)},  # type: ignore[arg-type] # each axis names the field of its own kind
        )
        for model in models
        for chosen in [{**choices, "norm": norms_of[model]}]
        for resolution in resolutions or (default_resolution(model),)
        for values in itertools.product(*(chosen.get(axis.field, axis.defaults) for axis in AXES))
    ]
    return tuple(dict.fromkeys(variants))


def default_norms(model: str) -> tuple[Norm, ...]:
    """The norms to try where nobody says; other people's networks are left as they are built."""
    return (Norm.AS_BUILT,) if keeps_own_norm(model) else (Norm.BATCH, Norm.GROUP)


def default_resolution(model: str) -> Resolution | None:
    """The size of the images where nobody says; None where the network is built for one."""
    has_its_own = problem_of(model) is Problem.CLASSIFICATION or model.startswith(HUGGING_FACE)
    return None if has_its_own else DEFAULT_RESOLUTION


def _norms(model: str, asked: Sequence[StrEnum] | None) -> tuple[StrEnum, ...]:
    """The norms of a model; `batch` leaves one that has its own as it is built."""
    norms = tuple(asked or default_norms(model))
    if not keeps_own_norm(model):
        return norms
    return tuple(dict.fromkeys(Norm.AS_BUILT if each is Norm.BATCH else each for each in norms))


def _require_others(norms: Sequence[StrEnum], processes: int) -> None:
    """Refuse statistics that one process cannot share."""
    if Norm.SYNC_BATCH in norms and processes == 1:
        raise UsageError(
            "--norm sync-batch: one process has nobody to share statistics with",
            hint="torchrun --nproc-per-node N -m bsprobe run, or bsprobe run --gpu NAME "
            "--processes N; else --norm batch",
        )


def _require_norm_for(model: str, norms: Sequence[StrEnum]) -> None:
    """Refuse to leave a norm alone that is always chosen."""
    if Norm.AS_BUILT in norms and not keeps_own_norm(model):
        raise UsageError(
            f"--norm {Norm.AS_BUILT}: {model} is built with the norm that is asked for",
            hint=f"its own is --norm {Norm.BATCH}",
        )


def _require_loss_for(model: str, loss: str | None) -> None:
    """Refuse a built-in loss whose labels are of another kind than a model's own."""
    wanted = LOSSES.get(loss or "")
    if wanted is not None and not is_told_by_logits(model) and wanted is not problem_of(model):
        raise UsageError(
            f"--loss {loss}: {model} is a network for {problem_of(model)}",
            hint=f"leave --loss out, or give --model NAME of a network for {wanted}",
        )


def _require_meaning(choices: Mapping[str, Sequence[StrEnum]], own: OwnParts) -> None:
    """Refuse values of axes that decide about parts of ours where the user's own stand."""
    for axis, option, part in (
        ("optimizer", "--optimizer-from", own.optimizer),
        ("loss_at", "--loss", own.own_loss),
    ):
        (field,) = (each for each in AXES if each.field == axis)
        if part is not None and tuple(choices.get(axis, field.defaults)) != field.defaults:
            raise UsageError(
                f"{field.option} does nothing with {option} {part}",
                hint="leave one of the two out",
            )
    if own.checkpoint_blocks and Checkpointing.ON not in choices.get("checkpointing", ()):
        raise UsageError(
            f"--checkpoint-blocks {own.checkpoint_blocks} does nothing without checkpointing",
            hint="add --checkpointing on",
        )


def _problem(model: str, own: OwnParts) -> Problem:
    return LOSSES.get(own.loss or "") or problem_of(model)


def _classes(model: str, own: OwnParts) -> int | None:
    """The classes that a network is built for: what its arguments say, else what its kind has.

    None where its logits will tell. Of batches of the user's own nobody counts them.
    """
    typed = dict(own.model_args).get("num_classes")
    is_told = is_told_by_logits(model) and own.batches is None
    if typed is None:
        return None if is_told else CLASSES[_problem(model, own)]
    given = own.arguments["num_classes"]
    if type(given) is not int or given not in ASKED["classes"]:  # True is an int as well
        raise UsageError(
            f"--model-arg num_classes={typed}: it is no number of classes",
            hint=f"give {ASKED['classes']}, for example --model-arg num_classes=19",
        )
    return None if is_told else given


def labels(variants: Sequence[Variant]) -> dict[Variant, str]:
    """A short name for each variant: precision and norm, then whatever is not as by default."""
    shown = [
        axis
        for axis in AXES
        if axis.field in _LABELLED_ALWAYS
        or {getattr(variant, axis.field) for variant in variants} != set(axis.defaults)
    ]
    whole = [field for field in ("model", "resolution") if _differs(variants, field)]
    return {
        variant: " / ".join(
            [str(getattr(variant, field)) for field in whole]
            + [axis.label(getattr(variant, axis.field)) for axis in shown]
        )
        for variant in variants
    }


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
