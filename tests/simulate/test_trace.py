"""Tracing of training steps: allocations and frees with their places and kinds, at any batch."""

import gc
import itertools
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F  # noqa: N812 - the name PyTorch's own code uses

from bsprobe.records.habits import COMMONEST, Gradients, Habits, Outputs, ZeroGrad
from bsprobe.records.trials import Validation
from bsprobe.records.units import GIB, Resolution
from bsprobe.records.variants import (
    Checkpointing,
    MemoryFormat,
    Norm,
    OptimizerName,
    Precision,
    Variant,
)
from bsprobe.records.workload import OwnParts
from bsprobe.simulate.timeline import (
    Action,
    Kind,
    MismatchError,
    Phase,
    Section,
    Timeline,
    matched,
)
from bsprobe.simulate.trace.data_dependence import UntraceableModelError
from bsprobe.simulate.trace.fake_model import build_without_values, make_fake
from bsprobe.simulate.trace.tracer import StepTracer
from bsprobe.training.batches import synthetic_batch
from bsprobe.training.step import build_task, facts_of, task_for, training_step
from tests.support.fake_cuda import REAL, Dispatched
from tests.support.tiny_networks import VARIANT, TinyNet, TwoHeadedNet
from tests.support.traced_networks import (
    NOTHING_KEPT,
    STEPS,
    Build,
    Function,
    PlainNet,
    at,
    born,
    bytes_left,
    bytes_of,
    extra,
    live_at_the_end,
    play,
    story,
    tracer_of,
)

HALF = Resolution(height=512, width=1024)
RESNET50 = Variant(model="deeplabv2-resnet50", resolution=Resolution(height=64, width=96))
LRASPP = replace(RESNET50, model="torchvision:lraspp_mobilenet_v3_large")
DEEPLABV3 = replace(RESNET50, model="torchvision:deeplabv3_resnet50")
AMP = replace(VARIANT, precision=Precision.AMP_FP16)
ADAMW = replace(VARIANT, optimizer=OptimizerName.ADAMW)
VALIDATION = Validation(resolution=Resolution(height=64, width=96), batch_size=2)
FEATURES_BYTES, CLASSIFIER_BYTES = 864 + 32, 128 + 16
PLAIN_BYTES = FEATURES_BYTES + CLASSIFIER_BYTES
"""Bytes of the parameters of `PlainNet`."""


# All events of a small network's step.

STEP = """\
+ the loss ne 3072 temporaries
+ the loss sum 8 temporaries
* the loss sum
- the loss ne 3072 temporaries
+ the loss stack 8 temporaries
+ the loss sum 8 temporaries
- the loss stack 8 temporaries
+ the loss clamp 8 saved activations
- the loss sum 8 temporaries
- the loss sum 8 temporaries
+ the loss zeros 4 saved activations
+ features convolution 6144 temporaries
* features convolution forward
+ the network itself relu 6144 saved activations
- features convolution 6144 temporaries
+ classifier convolution 3072 temporaries
* classifier convolution forward
+ the loss upsample_bilinear2d 49152 temporaries
+ the loss _log_softmax 49152 saved activations
+ the loss nll_loss2d_forward 4 temporaries
+ the loss nll_loss2d_forward 4 saved activations
- the loss upsample_bilinear2d 49152 temporaries
+ the loss div 4 saved activations
- classifier convolution 3072 temporaries
- the loss nll_loss2d_forward 4 temporaries
+ the loss ones_like 4 saved activations
+ the loss div 4 temporaries
+ the loss nll_loss2d_backward 49152 temporaries
- the loss nll_loss2d_forward 4 saved activations
- the loss div 4 temporaries
+ the loss _log_softmax_backward_data 49152 temporaries
- the loss _log_softmax 49152 saved activations
- the loss nll_loss2d_backward 49152 temporaries
+ the loss upsample_bilinear2d_backward 3072 temporaries
- the loss _log_softmax_backward_data 49152 temporaries
+ classifier convolution_backward 6144 temporaries
* classifier convolution_backward data gradient
+ classifier convolution_backward 128 gradients
* classifier convolution_backward weight gradient
+ classifier convolution_backward 16 gradients
- the loss upsample_bilinear2d_backward 3072 temporaries
+ the network itself threshold_backward 6144 temporaries
- the network itself relu 6144 saved activations
- classifier convolution_backward 6144 temporaries
+ features convolution_backward 864 gradients
* features convolution_backward weight gradient
+ features convolution_backward 32 gradients
- the loss ones_like 4 saved activations
- the network itself threshold_backward 6144 temporaries
""".splitlines()
"""The step at batch 2 before the update. Images of 32 x 48 become maps of 8 x 12, so (2, 8, 8, 12)
floats are 6144 bytes, (2, 4, 8, 12) 3072, (2, 4, 32, 48) 49152; one byte per pixel is 3072."""
END = """\
- the loss clamp 8 saved activations
- the loss zeros 4 saved activations
- the loss div 4 saved activations
- classifier convolution_backward 128 gradients
- classifier convolution_backward 16 gradients
- features convolution_backward 864 gradients
- features convolution_backward 32 gradients
""".splitlines()


def test_every_event_of_a_small_networks_step() -> None:
    recording = tracer_of(PlainNet).record(2)

    sizes = (864, 32, 128, 16)
    layers = ("features", "features", "classifier", "classifier")
    # SGD adds the weight decay to copies of the gradients, and clones them as the first momentum.
    decayed, forgotten = ([f"{sign} _foreach_add {n} temporaries" for n in sizes] for sign in "+-")
    momentum = [f"+ clone {size} optimizer state" for size in sizes]
    assert story(recording, Section.SETUP) == [
        *(f"+ {layer} to {size} parameters" for layer, size in zip(layers, sizes, strict=True)),
        "+ to 36864 batch",
        "+ to 24576 batch",
    ]
    assert story(recording, Section.FIRST_STEP) == [*STEP, *decayed, *momentum, *END, *forgotten]
    assert story(recording, Section.LATER_STEP) == [*STEP, *decayed, *END, *forgotten]


def test_setting_up_channels_last_lays_out_parameters_and_then_the_images() -> None:
    variant = replace(VARIANT, memory_format=MemoryFormat.NHWC)
    recording = tracer_of(PlainNet, variant).record(2)

    assert story(recording, Section.SETUP)[4:] == [
        "+ _to_copy 864 parameters",
        "- features to 864 parameters",
        "+ _to_copy 128 parameters",
        "- classifier to 128 parameters",
        "+ to 36864 batch",
        "+ to 24576 batch",
        "+ clone 36864 batch",
        "- to 36864 batch",
    ]


# Comparison with real tensors.


class RealEvents:
    """Allocations and frees of a program on real tensors, without those of known tensors."""

    def __init__(self, known: Iterable[torch.Tensor]) -> None:
        self.events: list[tuple[str, int]] = []
        self._live = {tensor.untyped_storage()._cdata for tensor in known}

    def watch(self, _operator: object, _args: tuple[object, ...], out: object) -> None:
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().nbytes():
                self._meet(tensor.untyped_storage())

    def _meet(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._live:
            self._live.add(key)
            self.events.append(("+", size))
            weakref.finalize(storage, self._end, key, size)

    def _end(self, key: int, size: int) -> None:
        self._live.remove(key)
        self.events.append(("-", size))


def runs(events: list[tuple[str, int]]) -> list[tuple[str, list[int]]]:
    """Group events into runs; the order within a run of frees has no meaning and is sorted."""
    groups = itertools.groupby(events, key=lambda event: event[0])
    sizes = [(sign, [size for _, size in group]) for sign, group in groups]
    return [(sign, sorted(each) if sign == "-" else each) for sign, each in sizes]


@pytest.mark.parametrize(
    ("norm", "accumulation_steps", "habits"),
    [
        *((norm, 1, NOTHING_KEPT) for norm in (Norm.BATCH, Norm.GROUP_AMP, Norm.FROZEN)),
        (Norm.BATCH, 2, NOTHING_KEPT),
        *((Norm.BATCH, steps, COMMONEST) for steps in (1, 2)),
        (Norm.BATCH, 1, Habits(zero_grad=ZeroGrad.START, outputs=Outputs.STEP)),
        (Norm.BATCH, 2, Habits(zero_grad=ZeroGrad.BEFORE_BACKWARD, gradients=Gradients.ZERO)),
    ],
)
def test_births_and_deaths_are_those_of_a_real_step_on_the_cpu(
    norm: Norm, accumulation_steps: int, habits: Habits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trace has no CUDA rules, as a real CPU does not follow them."""
    variant = replace(VARIANT, norm=norm, own=OwnParts(habits=habits))
    task = task_for(TinyNet(variant), variant, torch.device("cpu"))
    for group in task.optimizer.param_groups:
        group["foreach"] = True
    batch = synthetic_batch(variant, 2, device=torch.device("cpu"), seed=0)
    model = task.model
    real = RealEvents((*model.parameters(), *model.buffers(), batch.images, batch.labels))
    with Dispatched(real.watch, REAL):
        training_step(task, [batch] * accumulation_steps)

    monkeypatch.setattr("bsprobe.simulate.trace.tracer.cuda_dispatch", nullcontext)
    recording = tracer_of(TinyNet, variant, habits=habits).record(2, accumulation_steps)

    expected = [
        ("+" if action is Action.ALLOCATE else "-", recording.storages[subject][2])
        for action, subject in recording.sections[Section.FIRST_STEP]
        if action is not Action.SCRATCH
    ]
    assert runs(real.events) == runs(expected)
    assert len(expected) > 60


# Storages at the end of a step, and repetition.

VARIANTS = (
    VARIANT,
    AMP,
    replace(VARIANT, precision=Precision.AMP_BF16),
    replace(VARIANT, memory_format=MemoryFormat.NHWC),
    replace(AMP, memory_format=MemoryFormat.NHWC),
    replace(VARIANT, norm=Norm.GROUP),
    *(replace(AMP, norm=n) for n in (Norm.GROUP, Norm.GROUP_AMP, Norm.INSTANCE, Norm.FROZEN)),
    ADAMW,
    replace(AMP, optimizer=OptimizerName.ADAMW),
)


def name_of(variant: Variant) -> str:
    return f"{variant.precision}-{variant.norm}-{variant.memory_format}-{variant.optimizer}"


@pytest.mark.parametrize("variant", VARIANTS, ids=name_of)
def test_only_the_network_its_optimizer_and_the_batch_outlive_a_step(variant: Variant) -> None:
    recording = tracer_of(TinyNet, variant).record(2)

    model = TinyNet(variant)
    parameters = 4 * sum(each.numel() for each in model.parameters())
    states = 1 if variant.optimizer is OptimizerName.SGD else 2
    scaler = 4 + 4 if variant.precision is Precision.AMP_FP16 else 0
    assert bytes_left(recording) == Counter(
        {
            Kind.PARAMETER: parameters,
            Kind.BUFFER: sum(each.nbytes for each in model.buffers()),
            Kind.BATCH: 2 * 32 * 48 * (3 * 4 + 8),
            Kind.OPTIMIZER_STATE: states * parameters + scaler,
        }
    )


@pytest.mark.parametrize("accumulation_steps", [1, 3])
@pytest.mark.parametrize("variant", [VARIANT, AMP, ADAMW], ids=name_of)
def test_later_steps_can_be_repeated_without_end(variant: Variant, accumulation_steps: int) -> None:
    recording = tracer_of(TinyNet, variant).record(2, accumulation_steps)
    live = live_at_the_end(recording)

    for _ in range(3):
        play(recording, Section.LATER_STEP, live)

    assert live == live_at_the_end(recording)


# Batch sizes.


def is_exact(tracer: StepTracer, batch: int, accumulation_steps: int = 1) -> bool:
    """Return whether the timeline at a batch size equals the recording at that size."""
    timeline = tracer.timeline(batch, accumulation_steps)
    return at(timeline, batch) == tracer.record(batch, accumulation_steps)


@pytest.mark.parametrize("variant", VARIANTS, ids=name_of)
def test_a_timeline_from_two_batch_sizes_holds_at_others(variant: Variant) -> None:
    tracer = tracer_of(TinyNet, variant)

    # InstanceNorm repeats its weights for each image, which makes no copy for a single one.
    pair = (2, 3) if variant.norm is Norm.INSTANCE and variant.precision != "fp32" else (1, 2)
    assert tracer.timeline(4).traced_at == pair
    assert is_exact(tracer, 4)
    assert is_exact(tracer, 7)


@pytest.mark.parametrize(("batch", "accumulation_steps"), [(1, 1), (5, 2), (5, 3)])
@pytest.mark.parametrize("variant", [VARIANT, AMP], ids=name_of)
def test_a_single_image_and_accumulated_steps_are_traced_at_the_batch_asked_for(
    variant: Variant, batch: int, accumulation_steps: int
) -> None:
    tracer = tracer_of(TwoHeadedNet, variant)

    assert tracer.timeline(batch, accumulation_steps).traced_at == (batch,)
    assert is_exact(tracer, batch, accumulation_steps)


@pytest.mark.parametrize(
    "variant",
    [
        replace(RESNET50, checkpointing=Checkpointing.ON),
        *(
            pytest.param(each, marks=pytest.mark.nightly)
            for each in (
                RESNET50,
                replace(RESNET50, precision=Precision.AMP_FP16, checkpointing=Checkpointing.ON),
                replace(RESNET50, precision=Precision.AMP_FP16, norm=Norm.GROUP),
                replace(RESNET50, memory_format=MemoryFormat.NHWC),
                replace(RESNET50, optimizer=OptimizerName.ADAMW),
                LRASPP,
                DEEPLABV3,
                replace(DEEPLABV3, precision=Precision.AMP_FP16, memory_format=MemoryFormat.NHWC),
            )
        ),
    ],
    ids=lambda variant: f"{variant.model}-{name_of(variant)}-{variant.checkpointing}",
)
def test_timelines_of_whole_networks_hold_at_other_batch_sizes(variant: Variant) -> None:
    tracer = StepTracer(variant)

    # DeepLabV3 pools to one value per channel: with one image its BatchNorm does not run.
    pair = (2, 3) if "deeplabv3" in variant.model else (1, 2)
    assert tracer.timeline(4).traced_at == pair
    assert is_exact(tracer, 4)


def test_tracing_twice_gives_the_same() -> None:
    first = tracer_of(TinyNet, AMP).timeline(2)
    again = tracer_of(TinyNet, AMP)
    again.record(5, 2)  # must not change later traces

    assert again.timeline(2) == first


@pytest.mark.parametrize("is_collecting", [True, False])
def test_the_garbage_collector_is_left_as_it_was(is_collecting: bool) -> None:  # noqa: FBT001 - parametrized
    during: list[bool] = []

    def look(x: torch.Tensor) -> torch.Tensor:
        during.append(gc.isenabled())
        return x

    tracer = tracer_of(extra(look))
    (gc.enable if is_collecting else gc.disable)()
    try:
        tracer.record(2)
        after = gc.isenabled()
    finally:
        gc.enable()

    assert (set(during), after) == ({False}, is_collecting)


# Batch sizes that do not match.


EACH = [(1,), (2,), (3,), (5,)]


@pytest.mark.parametrize(
    ("function", "traced_at"),
    [
        (lambda x: x.relu() if len(x) % 2 else x, EACH),
        (lambda x: x.relu() if len(x) % 2 else x.sigmoid(), EACH),
        (lambda x: x + x.new_zeros(len(x) ** 2, *x.shape[1:])[: len(x)], EACH),
        (lambda x: x + x.new_zeros(9 - len(x), *x.shape[1:]).sum(), EACH),
        (lambda x: x.relu() if len(x) > 1 else x, [(1,), (2, 3), (2, 3), (2, 3)]),
    ],
    ids=["more operators", "another operator", "a square", "less and less", "but for one image"],
)
def test_a_network_that_changes_with_the_batch_is_traced_where_it_is_the_same(
    function: Function, traced_at: list[tuple[int, ...]]
) -> None:
    tracer = tracer_of(extra(function))

    assert [tracer.timeline(batch).traced_at for batch in (1, 2, 3, 5)] == traced_at
    assert is_exact(tracer, 1)
    assert is_exact(tracer, 5)


def test_a_mismatch_names_the_place() -> None:
    def message(function: Function) -> str:
        tracer = tracer_of(extra(function))
        with pytest.raises(MismatchError) as caught:
            matched(tracer.record(2), tracer.record(3))
        return str(caught.value)

    assert "first step" in message(lambda x: x.relu() if len(x) > 2 else x)
    assert "operator='sigmoid'" in message(lambda x: x.relu() if len(x) > 2 else x.sigmoid())
    shrinking = message(lambda x: x + x.new_zeros(9 - len(x), *x.shape[1:]).sum())
    assert "module='between'" in shrinking
    assert "21504" in shrinking  # 7 rows of (8, 8, 12) floats at batch 2
    assert "18432" in shrinking  # 6 rows at batch 3


# Places, phases, kinds.


def test_events_of_the_backward_pass_belong_to_the_module_that_made_the_forward() -> None:
    recording = StepTracer(RESNET50).record(2)
    places = {
        (place.phase, place.module, place.operator, kind)
        for place, kind, _ in born(recording)
        if place.module.startswith("layer3.5.")
    }

    forward, backward = Phase.FORWARD, Phase.BACKWARD
    layers = [
        *((f"layer3.5.conv{n}", "convolution", "convolution_backward") for n in (1, 2, 3)),
        *((f"layer3.5.bn{n}", "cudnn_batch_norm", "cudnn_batch_norm_backward") for n in (1, 2, 3)),
    ]
    assert places == {
        *((forward, layer, name, Kind.SAVED_ACTIVATION) for layer, name, _ in layers),
        *((backward, layer, name, Kind.TEMPORARY) for layer, _, name in layers),
        *((backward, layer, name, Kind.GRADIENT) for layer, _, name in layers),
        # The gradient of the shortcut is accumulated in place.
        (backward, "layer3.5.relu", "threshold_backward", Kind.TEMPORARY),
    }


def test_what_checkpointing_recomputes_belongs_to_its_module_in_the_backward_pass() -> None:
    recording = StepTracer(replace(RESNET50, checkpointing=Checkpointing.ON)).record(2)
    inside = [each for each in born(recording) if each[0].module.startswith("layer3.5")]
    phases = {
        (place.phase, kind)
        for place, kind, _ in inside
        if (place.module, place.operator) == ("layer3.5.conv2", "convolution")
    }
    modules = {place.module for place, _, _ in inside if place.phase is Phase.BACKWARD}

    assert phases == {(Phase.FORWARD, Kind.TEMPORARY), (Phase.BACKWARD, Kind.TEMPORARY)}
    assert {f"layer3.5.conv{i}" for i in (1, 2, 3)} < modules


@pytest.mark.nightly
def test_gradients_belong_to_the_same_modules_with_checkpointing() -> None:
    """The recomputation of this network stops inside a module, as nothing more is needed."""

    def gradients(variant: Variant) -> Counter[tuple[str, str, int]]:
        return Counter(
            (place.module, place.operator, size)
            for place, kind, size in born(StepTracer(variant).record(2))
            if kind is Kind.GRADIENT
        )

    assert gradients(replace(LRASPP, checkpointing=Checkpointing.ON)) == gradients(LRASPP)


def test_phases_follow_each_other_through_accumulated_micro_batches() -> None:
    recording = tracer_of(PlainNet).record(2, accumulation_steps=3)
    phases = [place.phase for place, _, _ in born(recording) if place.module]

    assert [phase for phase, _ in itertools.groupby(phases)] == [Phase.FORWARD, Phase.BACKWARD] * 3


def test_gradients_are_summed_in_place_from_the_second_micro_batch_on() -> None:
    tracer = tracer_of(PlainNet)
    once, thrice = (
        bytes_of(tracer.record(2, n), Kind.GRADIENT, Section.LATER_STEP) for n in (1, 3)
    )

    assert once == thrice == PLAIN_BYTES


def test_autocasts_copies_of_weights_live_from_their_first_use_to_their_last() -> None:
    recording = tracer_of(PlainNet, AMP).record(2)

    copies = [event for event in story(recording, Section.FIRST_STEP) if "copies" in event]
    assert copies == [
        "+ features _to_copy 16 weight copies",
        "+ features _to_copy 432 weight copies",
        "+ classifier _to_copy 8 weight copies",
        "+ classifier _to_copy 64 weight copies",
        "- features _to_copy 16 weight copies",
        "- classifier _to_copy 8 weight copies",
        "- classifier _to_copy 64 weight copies",
        "- features _to_copy 432 weight copies",
    ]


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        (VARIANT, {"clone": 1, "_foreach_add": 1}),
        (ADAMW, {"zeros_like": 2, "_foreach_sqrt": 1}),
        (replace(ADAMW, precision=Precision.AMP_FP16), {"zeros_like": 2, "_foreach_sqrt": 1}),
    ],
)
def test_an_optimizer_updates_all_parameters_at_once_as_on_cuda(
    variant: Variant, expected: dict[str, int]
) -> None:
    """Its copies exist together; its step counts are on the host and not recorded."""
    seen, small = Counter[str](), Counter[str]()
    for place, _, size in born(tracer_of(PlainNet, variant).record(2)):
        if place.phase is Phase.OPTIMIZER:
            (small if size <= 8 else seen)[place.operator] += size

    assert seen == {name: count * PLAIN_BYTES for name, count in expected.items()}
    # The scale and its inverse in double precision, the inverse in single precision, the overflow
    # flag; and copies of the last two for each device.
    scaling = {"_to_copy": 8 + 4 + 4 + 4, "reciprocal": 8, "full": 4}
    assert small == (scaling if variant.precision is Precision.AMP_FP16 else {})


def test_a_gradient_scaler_keeps_its_scale_and_its_count_on_the_device() -> None:
    recording = tracer_of(PlainNet, AMP).record(2)

    scaler = [
        (place.operator, size)
        for place, kind, size in born(recording)
        if kind is Kind.OPTIMIZER_STATE and place.phase is not Phase.OPTIMIZER
    ]
    assert scaler == [("full", 4), ("full", 4)]


def test_a_validation_saves_nothing_and_leaves_nothing() -> None:
    recording = tracer_of(PlainNet, VARIANT, VALIDATION).record(2)

    assert story(recording, Section.VALIDATION) == [
        "+ empty 147456 temporaries",
        "+ features convolution 24576 temporaries",
        "* features convolution forward",
        "+ the network itself relu 24576 temporaries",
        "- features convolution 24576 temporaries",
        "+ classifier convolution 12288 temporaries",
        "* classifier convolution forward",
        "- the network itself relu 24576 temporaries",
        "+ upsample_bilinear2d 196608 temporaries",
        "- classifier convolution 12288 temporaries",
        "+ argmax 98304 temporaries",
        # Together at the end, in the order in which they were made.
        "- empty 147456 temporaries",
        "- upsample_bilinear2d 196608 temporaries",
        "- argmax 98304 temporaries",
    ]


@pytest.mark.parametrize("variant", [AMP, replace(AMP, norm=Norm.GROUP)], ids=name_of)
def test_a_validation_obeys_autocast_and_leaves_nothing(variant: Variant) -> None:
    events = story(tracer_of(TinyNet, variant, VALIDATION).record(2), Section.VALIDATION)

    changes = {sign: Counter(each[2:] for each in events if each[0] == sign) for sign in "+-"}
    assert "+ upsample_bilinear2d 196608 temporaries" in events  # in fp32
    assert changes["+"] == changes["-"]


# Unusual networks.


def test_parameters_keep_their_shapes_where_identities_are_used_again() -> None:
    model = nn.Sequential(*(nn.Linear(width, width) for width in range(1, 300)))
    shapes = [parameter.shape for parameter in model.parameters()]

    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        make_fake(model, mode, lambda *_: None)

    assert [parameter.shape for parameter in model.parameters()] == shapes


def test_a_truncated_distribution_is_not_drawn_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch 2.15 draws until all values are within the bounds, which skipped draws never are."""
    drawn: list[object] = []
    monkeypatch.setattr(nn.init, "_no_grad_trunc_normal_", lambda *args, **_: drawn.append(args))

    network = build_without_values(replace(RESNET50, model="torchvision:swin_t", classes=1000))

    assert sum(parameter.numel() for parameter in network.parameters()) == 28_288_354
    assert drawn == []
    nn.init.trunc_normal_(torch.empty(3))
    assert len(drawn) == 1


def test_an_operator_with_a_cuda_kernel_is_not_decomposed() -> None:
    recording = tracer_of(extra(F.silu)).record(2)

    operators = Counter(place.operator for place, _, _ in recording.storages)
    assert (operators["silu"], operators["silu_backward"], operators["sigmoid"]) == (2, 2, 0)


def changed(change: Callable[[PlainNet], object]) -> Build:
    """Return a builder of a `PlainNet` with a change."""

    def build(variant: Variant) -> nn.Module:
        model = PlainNet(variant)
        change(model)
        return model

    return build


def test_tensors_without_elements_take_no_memory() -> None:
    def with_nothing(model: PlainNet) -> None:
        model.register_buffer("nothing", torch.empty(0))
        model.unused = nn.Parameter(torch.empty(0, 3))

    without = tracer_of(PlainNet).record(2)

    assert tracer_of(changed(with_nothing)).record(2).sections == without.sections


def test_buffers_laid_out_channels_last_stay_buffers() -> None:
    build = changed(lambda model: model.register_buffer("map", torch.zeros(2, 3, 4, 5)))
    recording = tracer_of(build, replace(VARIANT, memory_format=MemoryFormat.NHWC)).record(2)

    assert "+ _to_copy 480 buffers" in story(recording, Section.SETUP)


def test_shared_parameters_are_there_once() -> None:
    class Tied(PlainNet):
        def __init__(self, variant: Variant) -> None:
            super().__init__(variant)
            self.again = nn.Conv2d(8, variant.logits, 1)
            self.again.weight = self.classifier.weight

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            features = torch.relu(self.features(images))
            logits: torch.Tensor = self.classifier(features) + self.again(features)
            return logits

    recording = tracer_of(Tied).record(2)

    assert bytes_of(recording, Kind.PARAMETER, Section.SETUP) == PLAIN_BYTES + 16
    assert bytes_left(recording)[Kind.OPTIMIZER_STATE] == PLAIN_BYTES + 16


def test_a_frozen_parameter_has_neither_gradient_nor_state() -> None:
    freeze = changed(lambda model: model.features.requires_grad_(requires_grad=False))

    recording = tracer_of(freeze).record(2)

    assert bytes_of(recording, Kind.PARAMETER, Section.SETUP) == PLAIN_BYTES
    assert bytes_of(recording, Kind.GRADIENT, Section.FIRST_STEP) == CLASSIFIER_BYTES
    assert bytes_of(recording, Kind.OPTIMIZER_STATE, Section.FIRST_STEP) == CLASSIFIER_BYTES


# Networks that cannot be traced, or cannot run.


def reading_data(x: torch.Tensor) -> torch.Tensor:
    return x.relu() if x.sum().item() > 0 else x


@pytest.fixture(scope="module")
def unknown_operator() -> Iterator[None]:
    """Register an operator of an extension that has only a CPU kernel."""
    library = torch.library.Library("bsprobe_tests", "DEF")
    library.define("double_it(Tensor x) -> Tensor")
    library.impl("double_it", lambda x: x * 2, "CPU")
    yield
    library._destroy()


def doubled(x: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = torch.ops.bsprobe_tests.double_it(x)
    return out


@pytest.mark.parametrize(
    ("function", "operator", "why", "hint"),
    [
        (reading_data, "item", "values", "--device"),
        (doubled, "bsprobe_tests::double_it", "fake kernel", "torch.library.register_fake"),
    ],
)
@pytest.mark.usefixtures("unknown_operator")
def test_a_network_that_cannot_be_traced_is_refused_by_operator_and_module(
    function: Function, operator: str, why: str, hint: str
) -> None:
    tracer = tracer_of(extra(function))

    with pytest.raises(UntraceableModelError) as caught:
        tracer.timeline(2)

    message = str(caught.value)
    assert "tests/simulate/test_trace.py, line " in message
    assert f": {operator} in module between " in message
    assert why in message
    assert hint in (caught.value.hint or "")


def test_a_refused_network_leaves_everything_as_it_was() -> None:
    tracer = tracer_of(extra(reading_data))
    with pytest.raises(UntraceableModelError):
        tracer.timeline(2)

    assert gc.isenabled()
    assert torch.ones(2).sum().item() == 2  # real tensors again
    with torch.autocast("cpu", dtype=torch.float16):
        half = F.group_norm(torch.ones(1, 4, 4, dtype=torch.float16), 2)
    assert half.dtype is torch.float16  # the CPU's autocast again
    assert all(not module._forward_hooks for module in tracer._model.modules())


def test_batch_norm_on_one_pixel_fails_at_batch_1_as_on_a_device() -> None:
    tracer = StepTracer(DEEPLABV3)

    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        tracer.timeline(1)


# Figures of the real networks.


def saved_gib_per_image(timeline: Timeline, precision: Precision) -> float:
    """Count as the measurement does: with the labels, and in fp32 with the images."""
    first = [timeline.storages[i] for a, i in timeline.sections[STEPS[0]] if a is Action.ALLOCATE]
    saved = sum(
        each.size.per_image
        for each in first
        if each.kind is Kind.SAVED_ACTIVATION and each.place.phase is Phase.FORWARD
    )
    images_and_labels = (12 if precision is Precision.FP32 else 0) + 8
    return (saved + images_and_labels * HALF.height * HALF.width) / GIB


@pytest.mark.parametrize(
    ("norm", "precision", "gib"),
    [
        (Norm.BATCH, Precision.FP32, 3.54),
        (Norm.GROUP, Precision.AMP_FP16, 4.48),
        *(
            pytest.param(*case, marks=pytest.mark.nightly)
            for case in (
                (Norm.FROZEN, Precision.FP32, 1.73),
                (Norm.BATCH, Precision.AMP_FP16, 1.80),
                (Norm.GROUP_AMP, Precision.AMP_FP16, 1.80),
                (Norm.INSTANCE, Precision.AMP_FP16, 1.80),
                (Norm.FROZEN, Precision.AMP_FP16, 0.89),
            )
        ),
        *(
            pytest.param(norm, Precision.FP32, 3.54, marks=pytest.mark.nightly)
            for norm in (Norm.GROUP, Norm.GROUP_AMP, Norm.INSTANCE)
        ),
    ],
)
def test_an_image_saves_for_the_backward_pass_what_was_measured(
    norm: Norm, precision: Precision, gib: float
) -> None:
    variant = Variant(model="deeplabv2-resnet101", resolution=HALF, norm=norm, precision=precision)
    tracer = StepTracer(variant)
    timeline = tracer.timeline(4)

    assert saved_gib_per_image(timeline, precision) == pytest.approx(gib, abs=0.01)
    parameters = 43_901_068 - (105_344 if norm is Norm.FROZEN else 0)
    recording = at(timeline, 4)
    assert bytes_of(recording, Kind.PARAMETER, Section.SETUP) == 4 * parameters
    kinds = [recording.storages[i][1] for i in live_at_the_end(recording)]
    assert kinds.count(Kind.PARAMETER) == len(list(tracer._model.parameters()))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
def test_a_prediction_finds_parameters_without_gradient_as_a_real_step_does() -> None:
    variant = Variant(
        model="tests.support.networks_without_gradients:Reentrant",
        resolution=Resolution(height=32, width=32),
        classes=5,
    )
    task = build_task(variant, torch.device("cpu"))
    training_step(task, [synthetic_batch(variant, 2, device=task.device, seed=0)])
    tracer = StepTracer(variant)
    before = tracer.facts
    tracer.timeline(2)

    assert tracer.facts == facts_of(task, variant)
    assert before == replace(
        tracer.facts, parameters_without_gradient=0, first_without_gradient=None
    )
    assert tracer.facts.parameters_without_gradient == 4
    assert tracer.facts.first_without_gradient == "block.0.weight"
