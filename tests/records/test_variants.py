"""Tests of variants, their axes and their labels."""

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsprobe.records.errors import UsageError
from bsprobe.records.matrix import matrix
from bsprobe.records.units import Resolution
from bsprobe.records.variants import (
    AXES,
    DEFAULT_RESOLUTION,
    Checkpointing,
    MemoryFormat,
    Norm,
    OptimizerName,
    Precision,
    Variant,
    labels,
    parse_choices,
    unknown_value,
)
from bsprobe.records.workload import CLASSES, OwnParts, Problem

SIZE = Resolution(height=512, width=1024)
SMALL = Resolution(height=256, width=512)
BY_FIELD = {axis.field: axis for axis in AXES}


def test_the_default_matrix_is_two_precisions_by_two_norms() -> None:
    made = matrix(models=["resnet"], resolutions=[SIZE], choices={})
    assert made == tuple(
        Variant(model="resnet", resolution=SIZE, precision=precision, norm=norm)
        for precision in (Precision.FP32, Precision.AMP_FP16)
        for norm in (Norm.BATCH, Norm.GROUP)
    )


def test_the_matrix_goes_through_models_then_sizes_then_axes_without_repetitions() -> None:
    made = matrix(
        models=["a", "b", "a"],
        resolutions=[SIZE, SMALL],
        choices={
            "precision": [Precision.FP32],
            "norm": [Norm.GROUP, Norm.GROUP],
            "checkpointing": [Checkpointing.ON, Checkpointing.OFF],
        },
    )
    assert made == tuple(
        Variant(model=model, resolution=size, norm=Norm.GROUP, checkpointing=checkpointing)
        for model in ("a", "b")
        for size in (SIZE, SMALL)
        for checkpointing in (Checkpointing.ON, Checkpointing.OFF)
    )


@pytest.mark.parametrize(
    ("model", "classes"),
    [("deeplabv2-mini", 19), ("torchvision:fcn_resnet50", 19), ("torchvision:resnet18", 1000)],
)
def test_a_model_has_as_many_classes_as_its_problem(model: str, classes: int) -> None:
    made = matrix(models=[model], resolutions=[SIZE], choices={})

    assert {variant.classes for variant in made} == {classes}


@pytest.mark.parametrize("model", ["timm:resnet18", "unet.py:build", "torchvision:vit_b_16"])
def test_external_networks_keep_their_norm_unless_another_is_requested(model: str) -> None:
    def norms(*asked: Norm) -> set[Norm]:
        choices = {"norm": asked} if asked else {}
        made = matrix(models=["deeplabv2-mini", model], resolutions=[SIZE], choices=choices)
        return {v.norm for v in made if v.model == model}

    assert norms() == norms(Norm.BATCH) == {Norm.AS_BUILT}
    assert norms(Norm.BATCH, Norm.GROUP) == {Norm.AS_BUILT, Norm.GROUP}
    made = matrix(models=[model], resolutions=[SIZE], choices={"precision": [Precision.FP32]})
    assert set(labels(made).values()) == {"fp32 / as built"}


def test_as_built_is_refused_for_a_network_without_a_norm_of_its_own() -> None:
    with pytest.raises(UsageError, match="--norm as-built: deeplabv2-mini") as caught:
        matrix(models=["deeplabv2-mini"], resolutions=[SIZE], choices={"norm": [Norm.AS_BUILT]})
    assert "--norm batch" in str(caught.value.hint)


def test_size_and_classes_that_depend_on_the_network_are_left_open() -> None:
    def made(model: str) -> Variant:
        return matrix(models=[model], resolutions=None, choices={})[0]

    assert (made("timm:resnet18").resolution, made("timm:resnet18").classes) == (None, 1000)
    assert made("unet.py:build").resolution == DEFAULT_RESOLUTION
    assert made("unet.py:build").classes is None
    assert [made(name).is_complete for name in ("unet.py:b", "hf:c.json", "deeplabv2-mini")] == [
        False, False, True,
    ]  # fmt: skip


def test_every_axis_is_a_field_of_the_variant_with_its_own_kind_of_value() -> None:
    kinds = {field.name: field.type for field in fields(Variant)}
    assert {axis.field: axis.kind for axis in AXES} == {
        name: kind
        for name, kind in kinds.items()
        if name not in ("model", "resolution", "classes", "channels", "labels_of", "own", "script")
    }
    assert all(isinstance(value, axis.kind) for axis in AXES for value in axis.defaults)


def test_options_are_spelled_with_dashes() -> None:
    assert [axis.option for axis in AXES] == [
        "--precision",
        "--norm",
        "--checkpointing",
        "--memory-format",
        "--optimizer",
        "--cudnn-benchmark",
        "--loss-at",
    ]


def test_a_label_is_precision_and_norm_if_nothing_else_differs() -> None:
    plain = Variant(model="m", resolution=SIZE)
    amp = replace(plain, precision=Precision.AMP_BF16, norm=Norm.GROUP_AMP)
    assert labels([plain, amp]) == {plain: "fp32 / batch", amp: "amp-bf16 / group-amp"}


def test_a_label_names_values_that_are_not_the_default_even_if_all_agree() -> None:
    only = Variant(
        model="resnet",
        resolution=SIZE,
        checkpointing=Checkpointing.ON,
        memory_format=MemoryFormat.NHWC,
    )
    assert labels([only]) == {only: "fp32 / batch / checkpointing on / nhwc"}


def test_a_label_names_every_difference_and_the_axis_of_on_and_off() -> None:
    plain = Variant(model="a", resolution=SIZE)
    other = Variant(
        model="b",
        resolution=SMALL,
        checkpointing=Checkpointing.ON,
        optimizer=OptimizerName.ADAMW,
    )
    assert labels([plain, other]) == {
        plain: "a / 512x1024 / fp32 / batch / checkpointing off / sgd",
        other: "b / 256x512 / fp32 / batch / checkpointing on / adamw",
    }


@given(
    st.fixed_dictionaries(
        {
            axis.field: st.lists(
                st.sampled_from([each for each in axis.kind if each is not Norm.AS_BUILT]),
                min_size=1,
                unique=True,
            )
            for axis in AXES
        }
    ),
    st.lists(st.sampled_from(["a", "b"]), min_size=1, unique=True),
)
def test_no_two_variants_of_a_matrix_share_a_label(
    choices: dict[str, list[Norm]], models: list[str]
) -> None:
    variants = matrix(models=models, resolutions=[SIZE, SMALL], choices=choices, processes=2)
    named = labels(variants)
    assert list(named) == list(variants)
    assert len(set(named.values())) == len(variants)


def test_choices_are_parsed_in_the_order_given_without_repetitions() -> None:
    assert parse_choices(BY_FIELD["norm"], " frozen, batch ,,frozen") == (Norm.FROZEN, Norm.BATCH)


@pytest.mark.parametrize("text", ["", " , ", ","])
def test_an_axis_without_a_value_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_choices(BY_FIELD["precision"], text)
    assert "--precision" in str(refused.value)
    assert refused.value.hint == "choose among fp32, amp-fp16, amp-bf16"


def test_a_mistyped_value_is_refused_and_the_nearest_suggested() -> None:
    with pytest.raises(UsageError) as refused:
        parse_choices(BY_FIELD["precision"], "fp32,AMP-FP61")
    assert "--precision" in str(refused.value)
    assert "'AMP-FP61'" in str(refused.value)
    assert refused.value.hint == "did you mean amp-fp16? Known: fp32, amp-fp16, amp-bf16"


def test_an_unknown_value_without_a_near_one_gets_the_whole_list() -> None:
    error = unknown_value("--norm", "zzz", ["batch", "group"])
    assert (str(error), error.hint) == ("--norm: 'zzz' is unknown", "choose among batch, group")


def test_a_few_of_very_many_known_values_are_named() -> None:
    known = [f"net{number}" for number in range(40)]
    hints = [unknown_value("--model", name, known).hint for name in ("net41", "xyz")]
    assert hints == [
        "did you mean net4? There are 40, such as net1, net34, net31, net24, net21",
        "there are 40, such as net0, net1, net2, net3, net4, net5",
    ]


def test_user_supplied_parts_are_the_same_in_all_variants() -> None:
    own = OwnParts(model_args=(("num_classes", "4"),), optimizer="m:adam", batches="m:batch")

    made = matrix(models=["nets:mine"], resolutions=[None], choices={}, own=own)

    assert {(v.own, v.classes, v.resolution) for v in made} == {(own, 4, None)}
    assert {v.norm for v in made} == {Norm.AS_BUILT}
    assert made[0].subject == "nets:mine(num_classes=4) on m:batch"
    assert made[0].described_inputs == "batches of m:batch"


@pytest.mark.parametrize(
    "text",
    [
        *("true", "True", "0", "-1", "1.5", "inf", "few", "", "None"),
        *(str(2**20 + 1), "9" * 23, "9" * 5000, "0x" + "f" * 5000),
    ],
)
def test_an_invalid_number_of_classes_is_refused(text: str) -> None:
    own = OwnParts(model_args=(("num_classes", text),))
    with pytest.raises(UsageError) as refused:
        matrix(models=["deeplabv2-mini"], resolutions=[SIZE], choices={}, own=own)
    assert str(refused.value).startswith(f"--model-arg num_classes={text}: ")
    assert "1 to 1048576" in str(refused.value.hint)


def test_inputs_name_their_channels_unless_there_are_three() -> None:
    plain = Variant(model="m:n", resolution=SIZE)
    four = Variant(model="m:n", resolution=SIZE, channels=4)

    assert (plain.inputs, plain.subject) == (str(SIZE), f"m:n at {SIZE}")
    assert four.inputs == f"4x{SIZE}"
    assert four.described_inputs == f"4 channels · {SIZE.describe()}"


@pytest.mark.parametrize(
    ("loss", "problem"),
    [
        (None, Problem.SEGMENTATION),
        ("image-cross-entropy", Problem.CLASSIFICATION),
        ("m:loss", Problem.SEGMENTATION),
    ],
)
def test_the_loss_decides_the_problem_of_a_user_supplied_network(
    loss: str | None, problem: Problem
) -> None:
    own = OwnParts(loss=loss, batches="m:batch")
    (variant, *_) = matrix(models=["nets:mine"], resolutions=[None], choices={}, own=own)

    assert (variant.problem, variant.classes) == (problem, CLASSES[problem])
