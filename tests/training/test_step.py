import copy
import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name PyTorch's own code uses

from bsprobe.records.variants import (
    Checkpointing,
    MemoryFormat,
    Norm,
    OptimizerName,
    Precision,
    Variant,
)
from bsprobe.training import step
from bsprobe.training.batches import synthetic_batch
from bsprobe.training.models.norms import LAYERS
from bsprobe.training.step import Batch, build_task, evaluation_pass, training_step
from tests.support.networks_without_gradients import Unused
from tests.support.tiny_networks import VARIANT, OverflowingNet, TinyNet, TwoHeadedNet

CPU = torch.device("cpu")
UNCOUPLED = replace(VARIANT, norm=Norm.GROUP)
"""A variant in whose norm the images of a batch do not influence each other."""
FP16 = replace(VARIANT, precision=Precision.AMP_FP16)


@pytest.fixture(autouse=True)
def _tiny_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(step, "build_model", TinyNet)


def batch_of(size: int, *, seed: int = 1) -> Batch:
    return synthetic_batch(VARIANT, size, device=CPU, seed=seed)


def unevenly_ignored(size: int) -> Batch:
    """Images in double precision that differ in their number of valid pixels."""
    batch = batch_of(size)
    labels = batch.labels.clone()
    for index in range(size):
        labels[index, : 7 * index] = 255
    return Batch(images=batch.images.double(), labels=labels)


def all_ignored(batch: Batch) -> Batch:
    return Batch(images=batch.images, labels=torch.full_like(batch.labels, 255))


def split(batch: Batch, sizes: Sequence[int]) -> list[Batch]:
    parts = zip(batch.images.split(sizes), batch.labels.split(sizes), strict=True)
    return [Batch(images=images, labels=labels) for images, labels in parts]


def update_of(
    micro_batches: Sequence[Batch], variant: Variant = UNCOUPLED
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss and the gradients of one step of a newly built task with fixed weights."""
    torch.manual_seed(0)
    task = build_task(variant, CPU)
    task.model.to(micro_batches[0].images.dtype)
    gradients: dict[str, torch.Tensor] = {}

    def keep(*_: object) -> None:
        assert not gradients
        gradients.update(
            {n: p.grad.clone() for n, p in task.model.named_parameters() if p.grad is not None}
        )

    task.optimizer.register_step_pre_hook(keep)
    return training_step(task, micro_batches), gradients


@pytest.mark.parametrize("sizes", [(4,), (2, 2), (1, 3), (1, 1, 1, 1)], ids=str)
@pytest.mark.parametrize("norm", [Norm.GROUP, Norm.FROZEN])
def test_accumulation_gives_the_gradient_of_the_mean_over_all_valid_pixels(
    norm: Norm, sizes: tuple[int, ...]
) -> None:
    variant = replace(VARIANT, norm=norm)
    batch = unevenly_ignored(4)
    torch.manual_seed(0)
    model = TinyNet(variant).double()
    upsampled = F.interpolate(model(batch.images), size=(32, 48), mode="bilinear")
    expected = F.cross_entropy(upsampled, batch.labels, ignore_index=255)
    expected.backward()

    loss, gradients = update_of(split(batch, sizes), variant)

    torch.testing.assert_close(loss.double(), expected.detach(), rtol=1e-6, atol=0)
    torch.testing.assert_close(
        gradients, {name: p.grad for name, p in model.named_parameters()}, rtol=1e-9, atol=1e-12
    )


def test_a_micro_batch_without_valid_pixels_changes_nothing() -> None:
    batch = unevenly_ignored(2)

    without = update_of([batch])
    with_one = update_of([batch, all_ignored(batch)])

    torch.testing.assert_close(with_one, without, rtol=1e-12, atol=0)


def test_an_effective_batch_without_valid_pixels_has_loss_and_gradients_of_zero() -> None:
    nothing = all_ignored(unevenly_ignored(2))

    loss, gradients = update_of([nothing, nothing])

    assert loss.item() == 0.0
    assert [gradient.any().item() for gradient in gradients.values()] == [False] * 6


def test_the_loss_is_a_detached_scalar_in_full_precision() -> None:
    loss, _ = update_of([batch_of(2)], replace(VARIANT, precision=Precision.AMP_BF16))

    assert (loss.shape, loss.dtype, loss.requires_grad) == ((), torch.float32, False)


@pytest.mark.parametrize("optimizer", OptimizerName)
@pytest.mark.parametrize("norm", LAYERS)
def test_twenty_steps_learn_a_batch_by_heart(
    norm: Norm, optimizer: OptimizerName, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "LEARNING_RATE", 0.05)
    task = build_task(replace(VARIANT, norm=norm, optimizer=optimizer), CPU)
    batch = batch_of(2)

    losses = [training_step(task, [batch]).item() for _ in range(20)]

    assert losses[-1] < 0.9 * losses[0]
    assert task.updates_applied == 20


def test_the_learning_rate_of_trials_is_too_small_to_diverge() -> None:
    task = build_task(VARIANT, CPU)

    assert [group["lr"] for group in task.optimizer.param_groups] == [1e-5]


def test_each_update_is_counted_once_and_leaves_no_gradients() -> None:
    task = build_task(VARIANT, CPU)

    for _ in range(3):
        training_step(task, [batch_of(1)] * 4)

    assert isinstance(task.model, TinyNet)
    assert (task.updates_applied, task.model.calls) == (3, 12)
    assert [p.grad for p in task.model.parameters()] == [None] * 6


def test_an_update_that_the_scaler_skips_is_not_counted_and_changes_no_weight() -> None:
    task = build_task(FP16, CPU)
    task.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60, backoff_factor=2.0**-60)
    weights = [copy.deepcopy(list(task.model.parameters()))]
    updates = []

    for _ in range(3):
        training_step(task, [batch_of(2)])
        updates.append(task.updates_applied)
        weights.append(copy.deepcopy(list(task.model.parameters())))

    assert updates == [0, 1, 2]
    assert [
        any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
        for before, after in pairwise(weights)
    ] == [False, True, True]


def test_one_overflowing_micro_batch_spoils_its_whole_update(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    overflowing = functools.partial(OverflowingNet, overflows=frozenset({2}))
    monkeypatch.setattr(step, "build_model", overflowing)
    task = build_task(FP16, CPU)
    updates = []

    for _ in range(2):
        training_step(task, [batch_of(1)] * 3)
        updates.append(task.updates_applied)

    assert updates == [0, 1]


@pytest.mark.parametrize(
    ("precision", "dtype", "scales"),
    [
        (Precision.FP32, torch.float32, False),
        (Precision.AMP_FP16, torch.float16, True),
        (Precision.AMP_BF16, torch.bfloat16, False),
    ],
)
def test_a_precision_is_a_forward_dtype_and_only_fp16_scales_the_loss(
    precision: Precision, dtype: torch.dtype, *, scales: bool
) -> None:
    task = build_task(replace(VARIANT, precision=precision), CPU)
    batch = batch_of(2)

    training_step(task, [batch])
    evaluation_pass(task, batch.images, (8, 8))

    assert isinstance(task.model, TinyNet)
    assert task.model.logits_dtypes == [dtype, dtype]
    assert task.scaler.is_enabled() == scales
    assert {p.dtype for p in task.model.parameters()} == {torch.float32}


def test_scaled_gradients_reach_the_optimizer_unscaled() -> None:
    (_, scaled), (_, plain) = (
        update_of([batch_of(2)], variant) for variant in (replace(FP16, norm=Norm.GROUP), UNCOUPLED)
    )

    torch.testing.assert_close(scaled, plain, rtol=0.05, atol=1e-3)


def test_the_forward_pass_sees_images_and_weights_channels_last_where_the_variant_says_so() -> None:
    variant = replace(VARIANT, memory_format=MemoryFormat.NHWC)
    task = build_task(variant, CPU)
    images = synthetic_batch(variant, 2, device=CPU, seed=0).images
    assert isinstance(task.model, TinyNet)
    convolution = task.model.features[0]
    assert isinstance(convolution, nn.Conv2d)

    seen = (images, convolution.weight, convolution(images))

    assert [each.is_contiguous(memory_format=torch.channels_last) for each in seen] == [True] * 3
    assert [each.is_contiguous() for each in seen] == [False] * 3


def test_a_task_is_built_in_the_norm_of_its_variant_and_in_training_mode() -> None:
    task = build_task(UNCOUPLED, CPU)

    assert isinstance(task.model, TinyNet)
    assert type(task.model.features[1]) is LAYERS[Norm.GROUP]
    assert (task.model.training, task.updates_applied, task.device) == (True, 0, CPU)


def test_evaluation_predicts_at_the_size_asked_for_as_the_model_in_evaluation_does() -> None:
    task = build_task(VARIANT, CPU)
    batch = batch_of(3)
    training_step(task, [batch])
    reference = copy.deepcopy(task.model).eval()
    with torch.no_grad():
        logits = F.interpolate(reference(batch.images), size=(50, 70), mode="bilinear")

    predictions = evaluation_pass(task, batch.images, (50, 70))

    assert (predictions.shape, predictions.dtype) == ((3, 50, 70), torch.int64)
    assert torch.equal(predictions, logits.argmax(dim=1))


def test_evaluation_leaves_the_model_as_it_was_and_training_goes_on() -> None:
    task = build_task(VARIANT, CPU)
    batch = batch_of(2)
    training_step(task, [batch])
    before = copy.deepcopy(dict(task.model.state_dict()))

    predictions = evaluation_pass(task, batch.images, (32, 48))

    assert [module.training for module in task.model.modules()] == [True] * 6
    assert predictions.is_inference()
    torch.testing.assert_close(dict(task.model.state_dict()), before, rtol=0, atol=0)
    training_step(task, [batch])
    assert task.updates_applied == 2


def test_evaluation_takes_the_main_of_two_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "build_model", TwoHeadedNet)
    task = build_task(VARIANT, CPU)
    images = batch_of(2).images
    assert isinstance(task.model, TwoHeadedNet)
    main = copy.deepcopy(task.model.main).eval()
    with torch.no_grad():
        expected = F.interpolate(main(images), size=(32, 48), mode="bilinear").argmax(dim=1)

    assert torch.equal(evaluation_pass(task, images, (32, 48)), expected)


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.AMP_BF16])
def test_a_checkpointed_network_trains_and_is_evaluated(
    precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    variant = Variant(
        model="torchvision:lraspp_mobilenet_v3_large",
        resolution=VARIANT.resolution,
        precision=precision,
        checkpointing=Checkpointing.ON,
    )
    task = build_task(variant, CPU)
    batch = synthetic_batch(variant, 2, device=CPU, seed=0)

    loss = training_step(task, [batch, batch])
    predictions = evaluation_pass(task, batch.images, (64, 96))

    assert loss.isfinite()
    assert (task.updates_applied, predictions.shape) == (1, (2, 64, 96))


class Together:
    """A replica that records for each forward pass whether gradients are averaged after it."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._averages = True
        self.averaged: list[bool] = []

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        self.averaged.append(self._averages)
        out: torch.Tensor = self._model(images)
        return out

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        self._averages = False
        yield
        self._averages = True


def test_only_the_last_micro_batch_of_a_step_averages_gradients() -> None:
    task = build_task(VARIANT, CPU)
    task.replica = together = Together(task.model)
    for count in (3, 1):
        training_step(task, [batch_of(2)] * count)
    assert together.averaged == [False, False, True, True]


def test_parameters_without_a_gradient_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "build_model", lambda variant: Unused(variant.classes))
    task = build_task(VARIANT, CPU)
    found = []
    for _ in range(2):
        training_step(task, [batch_of(2)])
        found.append(step.facts_of(task, VARIANT))

    assert [each.parameters_without_gradient for each in found] == [3, 1]
    assert {each.first_without_gradient for each in found} == {"unused.bias"}


def test_a_skipped_update_shows_the_gradients_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    net = functools.partial(OverflowingNet, overflows=frozenset([1]))
    monkeypatch.setattr(step, "build_model", net)
    task = build_task(FP16, CPU)

    training_step(task, [batch_of(2)])

    assert (task.updates_applied, task.without_gradient) == (0, ())
