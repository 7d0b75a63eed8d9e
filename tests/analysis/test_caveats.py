"""The sentences beside a recommendation: each where it applies, and only there."""

from dataclasses import replace

import pytest

from bsprobe.analysis import caveats
from bsprobe.analysis.recommendation import Limits, recommend
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.failures import Outcome
from bsprobe.records.runs import REFERENCE, DeviceInfo, Recommendation, Target
from bsprobe.records.trials import Ddp, Source, Trial
from bsprobe.records.variants import Checkpointing, Norm, Precision, Variant
from bsprobe.records.workload import OwnParts
from tests.support.builders import (
    DEVICE,
    FOUND,
    GROUP,
    GROUPS,
    VARIANT,
    broke,
    failure,
    item,
    ran,
)


def caveats_of(
    variant: Variant,
    *,
    safe: int = 10,
    made: Recommendation | None = None,
    found: Limits = FOUND,
    trials: tuple[Trial, ...] = (),
    target: Target | None = None,
    device: DeviceInfo = DEVICE,
    trial: Trial | None = None,
) -> tuple[str, ...]:
    return caveats.caveats_of(
        made or replace(item(variant, safe=safe), trial=trial),
        found=found,
        trials=trials,
        target=target or Target(base_learning_rate=1e-3),
        device=device,
    )


FROZEN = replace(VARIANT, norm=Norm.FROZEN)


def test_where_nothing_is_to_be_said_nothing_is() -> None:
    assert caveats_of(FROZEN) == ()
    assert caveats_of(FROZEN, target=Target(), trials=(ran(8),), trial=ran(10)) == ()


def test_batch_norm_says_how_many_images_it_sees() -> None:
    assert caveats_of(VARIANT, safe=10) == (
        "BatchNorm statistics see the 10 images of a micro-batch.",
    )
    assert caveats_of(VARIANT, safe=5) == (
        (
            "BatchNorm statistics see the 5 images of a micro-batch; accumulation does not change "
            "that."
        ),
    )
    (alone,) = caveats_of(VARIANT, safe=1)
    assert alone.startswith("Micro-batch 1: BatchNorm normalises each image by itself")
    assert caveats_of(FROZEN, safe=1) == ()


@pytest.mark.parametrize(
    ("norm", "precision", "is_costly"),
    [
        (Norm.GROUP, Precision.FP32, False),
        (Norm.GROUP, Precision.AMP_FP16, True),
        (Norm.GROUP, Precision.AMP_BF16, True),
        (Norm.GROUP_AMP, Precision.AMP_FP16, False),
        (Norm.INSTANCE, Precision.AMP_FP16, False),
        (Norm.FROZEN, Precision.AMP_FP16, False),
    ],
)
def test_group_norm_under_autocast_is_told_to_take_more_memory(
    norm: Norm,
    precision: Precision,
    is_costly: bool,  # noqa: FBT001 - parametrized
) -> None:
    sentences = caveats_of(replace(VARIANT, norm=norm, precision=precision))
    assert any("Autocast runs GroupNorm in fp32" in one for one in sentences) is is_costly


@pytest.mark.parametrize("norm", sorted(set(Norm) - {Norm.SYNC_BATCH, Norm.AS_BUILT}))
def test_a_norm_without_pretrained_weights_is_told_to_be_another_model(norm: Norm) -> None:
    sentences = caveats_of(replace(VARIANT, norm=norm))
    is_told = f"A network with {norm} norm is another model" in " ".join(sentences)
    assert is_told is (norm not in (Norm.BATCH, Norm.FROZEN))


def test_the_reference_rate_is_told_to_stem_from_frozen_norms() -> None:
    words = "The reference rate 2.5e-04 stems from a recipe whose BatchNorm was frozen"
    assert any(words in one for one in caveats_of(GROUP, target=REFERENCE))
    own = Target(base_learning_rate=1e-3)
    assert not any(words in one for one in caveats_of(GROUP, target=own))
    assert not any(words in one for one in caveats_of(FROZEN, target=REFERENCE))
    adam = replace(GROUP, own=OwnParts(optimizer="m:adam"))
    assert not any(words in one for one in caveats_of(adam, target=REFERENCE))


def test_the_rate_of_an_optimizer_of_ones_own_is_told_to_follow_sgds_rule() -> None:
    own = replace(FROZEN, own=OwnParts(optimizer="m:adam"))
    words = (
        "What optimizer m:adam makes is not asked: LR is a factor for the rates that it has at the "
        "reference batch, by the linear rule, SGD's"
    )
    assert [words in one for one in caveats_of(own)] == [True]
    assert caveats_of(own, target=Target(base_learning_rate=1e-3, lr_rule="sqrt")) == ()


@pytest.mark.parametrize("norm", [Norm.AS_BUILT, Norm.GROUP])
def test_a_factory_keeps_its_norm_unless_another_is_asked_for(norm: Norm) -> None:
    found = " ".join(caveats_of(replace(VARIANT, model="m:net", norm=norm)))
    assert ("keeps the norm it is built with" in found) is (norm is Norm.AS_BUILT)
    assert ("another model than the one" in found) is (norm is Norm.GROUP)


def with_batch_norms(count: int) -> tuple[Trial, ...]:
    trial = ran(8)
    assert trial.measurement is not None
    model = replace(trial.measurement.model, batch_norms=count)
    return (replace(trial, measurement=replace(trial.measurement, model=model)),)


@pytest.mark.parametrize("model", ["m:net", "timm:vit_tiny", "torchvision:vit_b_16"])
def test_a_network_without_batch_norm_is_told_nothing_of_it(model: str) -> None:
    for norm in (Norm.AS_BUILT, Norm.BATCH, Norm.SYNC_BATCH):
        variant = replace(VARIANT, model=model, norm=norm)
        assert caveats_of(variant, trials=with_batch_norms(0)) == ()


def test_the_reference_rate_is_told_only_of_networks_with_batch_norm() -> None:
    found = caveats_of(GROUP, target=REFERENCE, trials=with_batch_norms(0))
    assert not any("reference rate" in one for one in found)


def test_a_network_of_ones_own_with_batch_norm_is_told_how_many_images_it_sees() -> None:
    own = replace(VARIANT, model="m:net", norm=Norm.AS_BUILT)
    assert caveats_of(own, safe=10, trials=with_batch_norms(3)) == (
        "BatchNorm statistics see the 10 images of a micro-batch.",
    )
    (alone,) = caveats_of(own, safe=1, trials=with_batch_norms(3))
    assert "consider" not in alone  # its norm may not be exchangeable


def test_autocast_on_a_cpu_is_told_nothing_of_cuda() -> None:
    amp = replace(GROUP, precision=Precision.AMP_BF16)
    cpu = replace(DEVICE, kind=DeviceKind.CPU)
    assert not any("Autocast" in one for one in caveats_of(amp, device=cpu))


@pytest.mark.parametrize("norm", Norm)
def test_recomputed_batch_norm_is_told_to_update_its_statistics_twice(norm: Norm) -> None:
    words = "with BatchNorm update its running statistics twice a step"
    recomputing = replace(VARIANT, norm=norm, checkpointing=Checkpointing.ON)
    is_told = any(words in one for one in caveats_of(recomputing))
    assert is_told is (norm in (Norm.BATCH, Norm.SYNC_BATCH, Norm.AS_BUILT))
    without = caveats_of(recomputing, trials=with_batch_norms(0))
    assert not any(words in one for one in without)
    assert not any(words in one for one in caveats_of(replace(VARIANT, norm=norm)))


def test_a_missing_headroom_is_told() -> None:
    tight = replace(FOUND, safe=3, keeps_headroom=False)
    assert caveats_of(FROZEN, safe=3, found=tight, target=Target(headroom=0.1)) == (
        (
            "Not even batch 3 leaves 10% of the memory free: an evaluation or a larger image can "
            "run out."
        ),
    )


@pytest.mark.parametrize(
    ("batches", "named"),
    [
        ((11,), "Batch 11"),
        ((12, 11, 12), "Batches 11 and 12"),
        ((11, 12, 13), "Batches 11 to 13"),
        ((91, 93, 96, 97), "Batches 91 to 97 (4 of them)"),
    ],
)
def test_retries_are_told_by_their_batches(batches: tuple[int, ...], named: str) -> None:
    slow = [ran(batch, outcome=Outcome.FITS_WITH_RETRIES) for batch in batches]
    (sentence,) = caveats_of(FROZEN, trials=(ran(8), *slow))
    assert sentence.startswith(f"{named} ran only after the allocator had emptied its cache and")


def test_a_plan_that_eats_the_headroom_is_told() -> None:
    (sentence,) = caveats_of(FROZEN, trial=ran(5, DEVICE.capacity_bytes, accumulation_steps=2))
    assert sentence == (
        "With its accumulated gradients the recommended step takes 100.0% of the memory, which "
        "leaves less than the 5% that was asked for."
    )


def test_a_target_that_no_accumulation_reaches_is_told() -> None:
    (sentence,) = caveats_of(
        FROZEN, made=replace(item(FROZEN), reaches_target=False), target=Target(batch=10)
    )
    assert sentence.startswith("An effective batch of 10 did not run with any accumulation")


def test_without_a_target_none_is_told_to_be_missed() -> None:
    missed = replace(item(FROZEN), reaches_target=False)
    assert (
        caveats_of(FROZEN, made=missed, target=Target(base_batch=8, base_learning_rate=1e-3)) == ()
    )


def test_windows_is_told_to_spill_into_the_host() -> None:
    note = "Windows: other programs draw on this GPU."
    windows = replace(DEVICE, notes=(note,))
    (sentence,) = caveats_of(FROZEN, device=windows)
    assert sentence.startswith("On Windows and WSL the driver moves memory to the host")
    assert caveats_of(FROZEN, device=replace(windows, kind=DeviceKind.CPU)) == ()


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (Outcome.OUT_OF_MEMORY, "out of memory"),
        (Outcome.TIMED_OUT, "timed out"),
        (Outcome.FAILED, "failed"),
    ],
)
def test_a_plan_that_did_not_run_is_told(outcome: Outcome, words: str) -> None:
    trial = broke(5, outcome, failure("RuntimeError: it broke"), accumulation_steps=2)
    assert caveats_of(FROZEN, safe=5, trial=trial) == (
        f"As recommended, 5 x 2, it did not run ({words}): RuntimeError: it broke",
    )


def test_with_several_processes_the_statistics_are_of_one_or_of_all() -> None:
    found = {}
    for norm in (Norm.BATCH, Norm.SYNC_BATCH):
        variant = replace(VARIANT, norm=norm)
        made = recommend(variant, FOUND, Target(batch=64), groups=dict(GROUPS), processes=4)
        found[norm] = caveats_of(variant, made=made)
    one = "BatchNorm statistics see the 8 images of one process's micro-batch"
    everyone = "SyncBatchNorm statistics see the 32 images of all 4 processes' micro-batches"
    ending = "; accumulation does not change that."
    assert found == {Norm.BATCH: (one + ending,), Norm.SYNC_BATCH: (everyone + ending,)}


def test_a_prediction_for_several_processes_says_what_it_assumes_of_nccl() -> None:
    made = recommend(VARIANT, FOUND, REFERENCE, groups=dict(GROUPS), processes=2)
    sentences = caveats_of(VARIANT, made=made, device=replace(DEVICE, source=Source.PREDICTED))
    assert (
        "Predicted with an estimated 544 MiB for NCCL, which is what A100s over NVLink took; "
        "slower links take less."
    ) in sentences


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (1, "A trainable parameter gets no gradient: block.0.weight."),
        (4, "4 trainable parameters get no gradient, block.0.weight first."),
    ],
)
def test_parameters_without_a_gradient_are_told_with_what_to_do(count: int, words: str) -> None:
    trial = ran(8)
    assert trial.measurement is not None
    facts = replace(
        trial.measurement.model,
        parameters_without_gradient=count,
        first_without_gradient="block.0.weight",
    )
    found = replace(trial, measurement=replace(trial.measurement, model=facts))

    (sentence,) = caveats_of(FROZEN, trials=(ran(4), found))

    assert sentence.startswith(words)
    assert "use_reentrant=False" in sentence
    assert "requires_grad=False" in sentence


def test_a_static_graph_that_misses_the_target_names_the_way_that_accumulates() -> None:
    static = Ddp.STATIC_GRAPH
    target = Target(batch=64)
    made = recommend(VARIANT, FOUND, target, groups=dict(GROUPS), processes=2, ddp=static)
    (sentence, *_) = caveats_of(VARIANT, made=made, target=target)
    assert "--ddp find-unused-parameters" in sentence
