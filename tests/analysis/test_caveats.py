"""Notes on recommendations: each only if it applies, and equal ones once."""

from dataclasses import replace

import pytest

from bsprobe.analysis import caveats
from bsprobe.analysis.notes import Note, joined
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
    for safe in (10, 5):
        (sentence,) = caveats_of(VARIANT, safe=safe)
        assert f"BatchNorm normalises over the micro-batch alone: {safe} images" in sentence
    (alone,) = caveats_of(VARIANT, safe=1)
    assert "micro-batch 1" in alone
    assert "--norm group or frozen" in alone
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
    name = Norm.GROUP if norm is Norm.GROUP_AMP else norm
    is_told = f"do not fit {name} norm" in " ".join(sentences)
    assert is_told is (norm not in (Norm.BATCH, Norm.FROZEN))


def test_the_reference_rate_is_told_to_stem_from_frozen_norms() -> None:
    words = "2.5e-04 comes from a recipe with frozen BatchNorm"
    assert any(words in one for one in caveats_of(GROUP, target=REFERENCE))
    own = Target(base_learning_rate=1e-3)
    assert not any(words in one for one in caveats_of(GROUP, target=own))
    assert not any(words in one for one in caveats_of(FROZEN, target=REFERENCE))
    adam = replace(GROUP, own=OwnParts(optimizer="m:adam"))
    assert not any(words in one for one in caveats_of(adam, target=REFERENCE))


def test_the_rate_of_a_user_supplied_optimizer_follows_the_linear_rule_by_default() -> None:
    own = replace(FROZEN, own=OwnParts(optimizer="m:adam"))
    (sentence,) = caveats_of(own)
    assert all(words in sentence for words in ("m:adam", "linear rule", "--lr-rule sqrt"))
    assert caveats_of(own, target=Target(base_learning_rate=1e-3, lr_rule="sqrt")) == ()


@pytest.mark.parametrize("norm", [Norm.AS_BUILT, Norm.GROUP])
def test_a_factory_keeps_its_norm_unless_another_is_asked_for(norm: Norm) -> None:
    found = " ".join(caveats_of(replace(VARIANT, model="m:net", norm=norm)))
    assert ("keeps the norm that it is built with" in found) is (norm is Norm.AS_BUILT)
    assert ("do not fit group norm" in found) is (norm is Norm.GROUP)


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
    assert not any("recipe" in one for one in found)


def test_a_user_supplied_network_with_batch_norm_has_the_note_on_its_images() -> None:
    own = replace(VARIANT, model="m:net", norm=Norm.AS_BUILT)
    (sentence,) = caveats_of(own, safe=10, trials=with_batch_norms(3))
    assert "alone: 10 images" in sentence
    (alone,) = caveats_of(own, safe=1, trials=with_batch_norms(3))
    assert "--norm" not in alone  # its norm cannot always be replaced


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
    (sentence,) = caveats_of(FROZEN, safe=3, found=tight, target=Target(headroom=0.1))
    assert "Not even batch 3 leaves 10% of the memory free" in sentence


@pytest.mark.parametrize(
    ("batches", "named"),
    [
        ((11,), "batch 11 "),
        ((12, 11, 12), "batches 11 and 12 "),
        ((11, 12, 13), "batches 11 to 13 "),
        ((91, 93, 97), "batches 91, 93 and 97 "),
        ((91, 93, 94, 96, 97), "batches 91 to 97 (5 of them) "),
    ],
)
def test_retries_are_noted_with_their_batches(batches: tuple[int, ...], named: str) -> None:
    slow = [ran(batch, outcome=Outcome.FITS_WITH_RETRIES) for batch in batches]
    (sentence,) = caveats_of(FROZEN, trials=(ran(8), *slow))
    assert sentence.startswith(f"With {named}")


def test_a_plan_that_uses_the_headroom_is_noted() -> None:
    (sentence,) = caveats_of(FROZEN, trial=ran(5, DEVICE.capacity_bytes, accumulation_steps=2))
    assert all(words in sentence for words in ("100.0%", "5%", "--headroom"))


def test_a_target_that_no_accumulation_reaches_is_noted() -> None:
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
    (sentence,) = caveats_of(FROZEN, safe=5, trial=trial)
    assert f"5 x 2, did not run ({words}): RuntimeError: it broke" in sentence


def test_with_several_processes_the_statistics_are_of_one_or_of_all() -> None:
    found = {}
    for norm in (Norm.BATCH, Norm.SYNC_BATCH):
        variant = replace(VARIANT, norm=norm)
        made = recommend(variant, FOUND, Target(batch=64), groups=dict(GROUPS), processes=4)
        found[norm] = caveats_of(variant, made=made)
    (one,), (everyone,) = found.values()
    assert "of one process alone: 8 images" in one
    assert "of all 4 processes: 32 images" in everyone


def test_a_prediction_for_several_processes_says_what_it_assumes_of_nccl() -> None:
    made = recommend(VARIANT, FOUND, REFERENCE, groups=dict(GROUPS), processes=2)
    sentences = caveats_of(VARIANT, made=made, device=replace(DEVICE, source=Source.PREDICTED))
    assert any("544 MiB for NCCL" in sentence for sentence in sentences)


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


def test_notes_that_differ_by_their_figures_are_one_sentence() -> None:
    def images(count: int) -> Note:
        return Note(text="{} are seen.", figure=f"{count}", unit=" images")

    names = ["fp32", "fp16", "bf16"]
    found = joined(zip(names, map(images, (5, 10, 5)), strict=True), names)
    assert found == [((), "5 images in fp32 and bf16, 10 in fp16 are seen.")]
    assert joined([("fp32", images(5))], names) == [(("fp32",), "5 images are seen.")]


def test_a_note_on_all_variants_names_none() -> None:
    names = ["fp32", "fp16"]
    notes = [(name, Note(text="A {} is no figure.")) for name in names]
    assert joined(notes, names) == [((), "A {} is no figure.")]
    assert joined(notes, [*names, "bf16"]) == [(("fp32", "fp16"), "A {} is no figure.")]


def test_variants_are_named_by_the_settings_that_only_they_share() -> None:
    names = [
        f"{precision} / {norm}" for precision in ("fp32", "fp16") for norm in ("batch", "group")
    ]
    note = Note(text="It is so.")

    def named(chosen: list[str]) -> tuple[str, ...]:
        ((found, _),) = joined([(name, note) for name in chosen], names)
        return found

    assert named(names[:2]) == ("fp32",)
    assert named(names[1::2]) == ("group norm",)
    assert named(names[:3]) == tuple(names[:3])
    assert named(names[3:]) == ("fp16 / group",)


def test_a_note_that_says_what_it_is_about_names_no_variants() -> None:
    notes = [("fp32", Note(text="GroupNorm is slow.", is_general=True))]
    assert joined(notes, ["fp32", "fp16"]) == [((), "GroupNorm is slow.")]


def test_figures_with_commas_are_kept_apart() -> None:
    notes = [(name, Note(text="It is {}.", figure=f"{name}, 1")) for name in ("a", "b")]
    assert joined(notes, ["a", "b"]) == [((), "It is a, 1 in a; b, 1 in b.")]
