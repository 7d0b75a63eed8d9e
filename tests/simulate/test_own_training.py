"""User-supplied optimizers, losses and batches are traced."""

from dataclasses import replace

import pytest

from bsprobe.records.units import Resolution
from bsprobe.records.variants import MemoryFormat, Norm, Variant
from bsprobe.records.workload import OwnParts
from bsprobe.simulate.timeline import Kind, Recording, Section
from bsprobe.simulate.trace.tracer import StepTracer
from tests.support.traced_networks import bytes_of

OWN = OwnParts(
    model_args=(("width", "16"),),
    loss="tests.support.own_training:loss",
    optimizer="tests.support.own_training:adam",
    batches="tests.support.own_training:batch",
)
VARIANT = Variant(model="tests.support.own_training:network", resolution=None, own=OWN)
NAMED = Variant(
    model="tests.support.own_training:Named",
    resolution=None,
    own=OwnParts(
        batches="tests.support.own_training:named_batch",
        loss="tests.support.own_training:named_loss",
    ),
)
PARAMETERS = (3 * 16 * 9 + 16) + 2 * 16 + (16 * 5 + 5)
PARAMETER_BYTES = 4 * PARAMETERS


def recording(variant: Variant, batch: int = 2) -> Recording:
    return StepTracer(variant).record(batch)


def test_the_batch_is_the_one_that_was_made() -> None:
    assert bytes_of(recording(VARIANT), Kind.BATCH, Section.SETUP) == 2 * (3 + 5) * 64 * 64 * 4


def test_the_state_of_a_user_supplied_optimizer_is_counted() -> None:
    sgd = replace(VARIANT, own=replace(OWN, optimizer=None))

    states = [
        bytes_of(recording(each), Kind.OPTIMIZER_STATE, Section.FIRST_STEP)
        for each in (VARIANT, sgd)
    ]

    # The state of the gradient scaler and of the loss is the same for both.
    assert states[0] - states[1] == PARAMETER_BYTES


def test_inputs_by_name_are_laid_out_as_on_a_device() -> None:
    variant = replace(NAMED, memory_format=MemoryFormat.NHWC)
    images = 2 * 3 * 64 * 64 * 4

    # The given batch, and its copy in channels-last.
    assert bytes_of(recording(variant), Kind.BATCH, Section.SETUP) == 2 * (images + 2 * 4)


def test_a_timeline_made_of_two_batches_holds_at_others() -> None:
    tracer = StepTracer(VARIANT)

    at_nine = tracer.timeline(9)

    sizes = [each.size.at(9) for each in at_nine.storages]
    assert sizes == [size for _, _, size in tracer.record(9).storages]


@pytest.mark.parametrize("norm", [Norm.GROUP, Norm.FROZEN])
def test_norms_are_exchanged_through_the_networks_own_argument(norm: Norm) -> None:
    facts = StepTracer(replace(VARIANT, norm=norm)).facts

    affine = 0 if norm is Norm.FROZEN else 2 * 16
    assert facts.parameters == PARAMETERS - 2 * 16 + affine


def test_groups_of_a_user_supplied_optimizer_have_the_factors_of_its_rates() -> None:
    own = replace(OWN, optimizer="tests.support.own_training:two_rates")

    assert StepTracer(replace(VARIANT, own=own)).facts.groups == (("stem", 1.0), ("group 2", 4.0))


def test_a_network_receives_the_channels_and_keeps_its_own_number_of_classes() -> None:
    variant = Variant(
        model="tests.support.own_training:network",
        resolution=Resolution(height=32, width=64),
        channels=4,
        classes=7,
    )

    assert StepTracer(variant).facts.parameters == (4 * 8 * 9 + 8) + 2 * 8 + (8 * 5 + 5)


def test_inputs_by_name_go_through_the_replica_of_several_processes() -> None:
    together = StepTracer(NAMED, processes=2).record(2)

    # The buckets hold the gradients: as many bytes as the parameters.
    parameters = 4 * (3 * 5 + 5)
    assert bytes_of(together, Kind.BUCKET, Section.SETUP) >= parameters
