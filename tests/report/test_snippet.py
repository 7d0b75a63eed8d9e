"""The snippet runs unchanged on a tiny network."""

import inspect
import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.data import Subset

from bsprobe.analysis.recommendation import plan
from bsprobe.records.checkpointing import Checkpointed, CheckpointWay
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.runs import REFERENCE, Recommendation, Run, Target
from bsprobe.records.variants import (
    Checkpointing,
    CudnnBenchmark,
    LossAt,
    MemoryFormat,
    OptimizerName,
    Precision,
)
from bsprobe.records.workload import OwnParts
from bsprobe.report.snippet import snippet
from tests.support import home_made
from tests.support.snippet_networks import of_pixels
from tests.support.snippet_training import Net, Stripes, execute

ALL = [
    {"precision": Precision.FP32},
    {"precision": Precision.AMP_BF16, "memory_format": MemoryFormat.NHWC},
    {"precision": Precision.AMP_FP16, "optimizer": OptimizerName.ADAMW},
    {"precision": Precision.FP32, "cudnn_benchmark": CudnnBenchmark.ON},
    {"precision": Precision.FP32, "loss_at": LossAt.LOGITS},
]


def item_with(run: Run, item: Recommendation, **changes: Any) -> tuple[Run, Recommendation]:
    variant = replace(item.variant, **changes)
    settings = replace(run.settings, variants=(variant,))
    return replace(run, settings=settings), replace(item, variant=variant)


@pytest.fixture
def names(run: Run, item: Recommendation) -> dict[str, Any]:
    """The names that the snippet defines."""
    return execute(snippet.render(run, item))


@pytest.mark.parametrize(
    ("kind", "trains_on"),
    [(DeviceKind.CUDA, "cuda"), (DeviceKind.SIMULATED, "cuda"), (DeviceKind.CPU, "cpu")],
)
def test_the_snippet_of_a_predicted_run_trains_on_a_gpu(
    run: Run, item: Recommendation, kind: DeviceKind, trains_on: str
) -> None:
    names = execute(snippet.render(replace(run, device=replace(run.device, kind=kind)), item))
    assert inspect.signature(names["train"]).parameters["device"].default == trains_on


@pytest.mark.parametrize("changes", ALL, ids=str)
def test_the_snippet_trains_and_its_loss_falls(
    run: Run, item: Recommendation, changes: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    names = execute(snippet.render(*item_with(run, item, **changes)))
    names["LEARNING_RATE"] = 0.05
    before = torch.backends.cudnn.benchmark
    losses = names["train"](Net(), Stripes(), device="cpu", updates=30, workers=0)
    torch.backends.cudnn.benchmark = before
    assert len(losses) == 30
    assert all(math.isfinite(loss) for loss in losses)
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_the_snippets_constants_are_the_recommendations(
    item: Recommendation, names: dict[str, Any]
) -> None:
    plan = item.plan
    wanted = {
        "MICRO_BATCH": plan.micro_batch,
        "ACCUMULATION_STEPS": plan.accumulation_steps,
        "LEARNING_RATE": pytest.approx(plan.learning_rate),
        "UPDATES": plan.updates,
        "WARMUP_UPDATES": plan.warmup_updates,
    }
    assert {name: names[name] for name in wanted} == wanted


def test_without_a_recipe_the_snippet_asks_for_rate_and_updates(
    run: Run, item: Recommendation
) -> None:
    variant = replace(item.variant, model="unet.py:build")
    open_plan = plan(variant, Target(), micro_batch=4, steps=1, groups={"all": 1.0})
    made, item = item_with(run, replace(item, plan=open_plan), model="unet.py:build")
    names = execute(snippet.render(made, item))
    for name, value in {"LEARNING_RATE": 0.05, "UPDATES": 30, "WARMUP_UPDATES": 2}.items():
        with pytest.raises(SystemExit) as ended:
            names["train"](Net(), Stripes(), device="cpu", workers=0)
        assert name in str(ended.value)
        names[name] = value
    losses = names["train"](Net(), Stripes(), device="cpu", workers=0)
    assert len(losses) == 30
    assert losses[-1] < losses[0]


def test_the_schedule_warms_up_then_falls_to_zero(names: dict[str, Any]) -> None:
    names["WARMUP_UPDATES"], names["UPDATES"] = 4, 100
    rates = [names["schedule"](update) for update in (0, 1, 3, 4, 50, 100)]
    assert rates == pytest.approx([0.25, 0.5, 1.0, 0.96**0.9, 0.5**0.9, 0.0])


def test_the_snippets_groups_are_those_of_the_trials(
    item: Recommendation, names: dict[str, Any]
) -> None:
    groups = names["parameter_groups"](Net())
    rate = item.plan.known_rate
    assert [(len(g["params"]), g["lr"], g["weight_decay"]) for g in groups] == [
        (2, pytest.approx(rate), 5e-4),
        (1, pytest.approx(10 * rate), 5e-4),
        (1, pytest.approx(20 * rate), 0.0),
    ]


def test_the_rates_of_a_users_optimizer_are_scaled_and_its_loss_falls(
    run: Run, item: Recommendation
) -> None:
    torch.manual_seed(0)
    own = OwnParts(loss="m:loss", optimizer="m:adam", batches="m:batch")
    made, item = item_with(run, item, own=own)
    train = execute(snippet.render(made, item))["train"]
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    images, labels = Stripes()[1]
    pairs = itertools.repeat((images[None].repeat(4, 1, 1, 1), labels[None].repeat(4, 1, 1)))

    losses = train(model, optimizer, of_pixels, pairs, updates=30, device="cpu")

    rate = item.plan.effective_batch / (REFERENCE.base_batch or 1)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * rate)
    assert losses[-1] < 0.5 * losses[0]


def training_of(run: Run, item: Recommendation, batches: object, updates: int) -> list[float]:
    """Train with a user's loss, optimizer and batches, two to an update, without a change."""
    own = OwnParts(loss="m:loss", optimizer="m:adam", batches="m:batch")
    made, item = item_with(run, item, own=own)
    names = execute(snippet.render(made, item)) | {"ACCUMULATION_STEPS": 2, "RATE_FACTOR": 1.0}
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    losses: list[float] = names["train"](
        model, optimizer, of_pixels, batches, updates=updates, device="cpu"
    )
    return losses


def pair_of(*places: int) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*(Stripes()[place] for place in places), strict=True)
    return torch.stack(images), torch.stack(labels)


def test_the_last_update_of_a_short_epoch_goes_on_in_the_next_epoch(
    run: Run, item: Recommendation
) -> None:
    batches = [pair_of(0, 7), pair_of(1, 2), pair_of(6)]

    losses = training_of(run, item, batches, updates=3)

    torch.manual_seed(0)
    model = Net()
    groups = [(0, 7, 1, 2), (6, 0, 7), (1, 2, 6)]
    assert losses == pytest.approx(
        [of_pixels(model(images), labels).item() for images, labels in map(_pair, groups)]
    )


def _pair(places: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    return pair_of(*places)


def test_a_micro_batch_without_a_valid_pixel_is_left_out_of_a_mean(
    run: Run, item: Recommendation
) -> None:
    images, labels = pair_of(1, 2)
    empty = images, torch.full_like(labels, 255)

    with_it = training_of(run, item, [pair_of(1, 2), empty, pair_of(3)], updates=2)

    assert with_it == training_of(run, item, [pair_of(1, 2), pair_of(3)], updates=2)
    with pytest.raises(SystemExit, match="valid"):
        training_of(run, item, [empty], updates=1)


def test_batches_that_cannot_be_iterated_again_end_the_training_with_one_line(
    run: Run, item: Recommendation
) -> None:
    with pytest.raises(SystemExit, match="DataLoader"):
        training_of(run, item, iter([pair_of(1), pair_of(2)]), updates=2)


def test_a_data_set_smaller_than_a_micro_batch_ends_the_training_with_one_line(
    names: dict[str, Any],
) -> None:
    few = Subset(Stripes(), range(names["MICRO_BATCH"] - 1))
    with pytest.raises(SystemExit, match="MICRO_BATCH"):
        names["train"](Net(), few, device="cpu", updates=1, workers=0)


def test_a_users_loss_that_cannot_be_split_is_mentioned_where_the_weights_are(
    run: Run, item: Recommendation
) -> None:
    texts = [
        snippet.render(*item_with(run, item, own=own))
        for own in (OwnParts(loss="m:dice"), OwnParts(batches="m:batch"), OwnParts())
    ]
    assert ["Dice" in text for text in texts] == [True, True, False]


def test_an_older_run_with_user_supplied_batches_has_a_comment_on_their_form(
    run: Run, item: Recommendation
) -> None:
    own = OwnParts(loss="m:loss", batches="m:batch")
    assert "# The trials did not record the form" in snippet.render(*item_with(run, item, own=own))
    names = execute(snippet.render(*item_with(run, item, own=OwnParts(loss="m:loss"))))
    assert "outputs_of" not in names


def recomputing(
    run: Run, item: Recommendation, *parts: tuple[str, CheckpointWay], own: OwnParts | None = None
) -> str:
    """Return the snippet of a run whose trials recomputed these parts of the network."""
    made, item = item_with(run, item, checkpointing=Checkpointing.ON)
    if own is not None:
        made, item = item_with(made, item, own=own)
    assert item.trial is not None
    assert item.trial.measurement is not None
    found = tuple(Checkpointed(modules=modules, way=way) for modules, way in parts)
    measured = item.trial.measurement
    trial = replace(
        item.trial,
        spec=replace(item.trial.spec, variant=item.variant),
        measurement=replace(measured, model=replace(measured.model, checkpointed=found)),
    )
    return snippet.render(replace(made, trials=(trial,)), item)


def changed(model: torch.nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if "forward" in vars(module)]


def test_the_snippet_recomputes_the_blocks_of_the_trials(run: Run, item: Recommendation) -> None:
    blocks = [("down?", CheckpointWay.BLOCK), ("up1", CheckpointWay.BLOCK)]
    names = execute(recomputing(run, item, *blocks))
    model = home_made.UNet()

    names["checkpoint_blocks"](model)
    names["checkpoint_blocks"](model)

    assert changed(model) == ["down1", "down2", "down3", "up1"]
    model(torch.zeros(2, 3, 16, 16)).sum().backward()
    assert (
        int(model.down1.layers[1].num_batches_tracked) == 2
    )  # not 4: the second call changes nothing


def test_the_snippet_trains_with_recomputed_blocks(run: Run, item: Recommendation) -> None:
    torch.manual_seed(0)
    names = execute(recomputing(run, item, ("conv1", CheckpointWay.BLOCK)))
    names["LEARNING_RATE"] = 0.05
    model = Net()
    losses = names["train"](model, Stripes(), device="cpu", updates=10, workers=0)
    assert changed(model) == ["conv1"]
    assert losses[-1] < losses[0]


def test_the_snippet_runs_a_chain_of_layers_in_segments(run: Run, item: Recommendation) -> None:
    model = home_made.long_chain()
    images = torch.rand(1, 3, 8, 8)
    before = model(images)
    before.square().sum().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()

    execute(recomputing(run, item, ("", CheckpointWay.SEGMENTS)))["checkpoint_blocks"](model)
    after = model(images)
    after.square().sum().backward()

    torch.testing.assert_close(after, before)
    torch.testing.assert_close([parameter.grad for parameter in model.parameters()], gradients)
    assert changed(model) == [""]


def test_the_snippet_calls_the_method_of_a_network_that_has_one(
    run: Run, item: Recommendation
) -> None:
    names = execute(recomputing(run, item, ("backbone", CheckpointWay.TIMM)))
    model = home_made.WithBackbone()
    names["checkpoint_blocks"](model)
    assert model.backbone.is_on

    text = recomputing(run, item, ("", CheckpointWay.TRANSFORMERS))
    assert 'model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_re' in text


def test_with_user_supplied_parts_the_network_is_recomputed_as_well(
    run: Run, item: Recommendation
) -> None:
    own = OwnParts(loss="m:loss", optimizer="m:adam", batches="m:batch")
    names = execute(recomputing(run, item, ("conv1", CheckpointWay.BLOCK), own=own))
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pairs = itertools.repeat((torch.zeros(2, 3, 8, 8), torch.zeros(2)))

    names["train"](model, optimizer, lambda y, _: y.mean(), pairs, updates=1, device="cpu")

    assert changed(model) == ["conv1"]


def test_an_older_run_has_a_comment_in_the_place_of_the_blocks(
    run: Run, item: Recommendation
) -> None:
    text = recomputing(run, item)
    assert "torch.utils.checkpoint" in text
    assert "checkpoint_blocks" not in execute(text)
