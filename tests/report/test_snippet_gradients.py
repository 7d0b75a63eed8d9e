"""Every kind of snippet runs as it is, and its gradient is that of one large batch."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data import Dataset, DistributedSampler, TensorDataset

from bsprobe.analysis.recommendation import plan, recipe_of
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.runs import Target
from bsprobe.records.trials import ModelFacts
from bsprobe.records.variants import Checkpointing, Variant
from bsprobe.report.snippet.snippet import Loader, fill
from bsprobe.training.models.checkpointing import apply_checkpointing
from bsprobe.training.own_batches import OwnBatch, _read
from bsprobe.training.step import Batch, facts_of, task_for, training_step
from tests.support import builders
from tests.support.snippet_cases import CASES, COUNT, PARTS, Case, parts
from tests.support.snippet_training import execute

CPU = torch.device("cpu")
UPDATES = 3


class Replica(nn.Module):
    """DistributedDataParallel beside a process with equal gradients."""

    def __init__(self, module: nn.Module, **_: Any) -> None:
        super().__init__()
        self.module = module
        self.no_sync = contextlib.nullcontext

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.module(*inputs, **named)


class Sampler(DistributedSampler[Any]):
    """The sampler of the only process that reads the data set."""

    def __init__(self, dataset: Dataset[Any], **options: Any) -> None:
        super().__init__(dataset, num_replicas=1, rank=0, **options)


TWO_PROCESSES = {
    "dist": SimpleNamespace(
        init_process_group=lambda _: None,
        get_world_size=lambda: 2,
        all_reduce=lambda tensor: tensor.mul_(2),
    ),
    "DistributedDataParallel": Replica,
    "DistributedSampler": Sampler,
}
"""The other process has the same batches."""


def variant_of(case: Case) -> Variant:
    return replace(builders.VARIANT, **{"classes": 2, **case.variant})


def facts_after_a_step(case: Case, variant: Variant) -> ModelFacts:
    """Return what a trial records of a network and its batches."""
    batch: Batch | OwnBatch | None = Batch(images=case.images, labels=case.labels)
    if case.batches is not None:
        batch = _read(case.batches(parts()[0]))
    assert batch is not None
    model = case.model()
    if variant.checkpointing is Checkpointing.ON:
        apply_checkpointing(model, variant.own.checkpoint_blocks)
    # The user's optimizer changes nothing that the snippet depends on.
    task = task_for(model, replace(variant, own=replace(variant.own, optimizer=None)), CPU)
    training_step(task, [batch, batch])
    return facts_of(task, variant)


def rendered(case: Case) -> str:
    variant = variant_of(case)
    target = recipe_of(variant, Target())
    steps = COUNT // 2 if case.batches is None else len(PARTS)
    return fill(
        variant,
        plan(
            variant,
            target,
            micro_batch=2,
            steps=steps,
            groups={"backbone": 1.0, "classifier": 10.0},
            processes=case.processes,
        ),
        paragraphs=("Title.", "Answer."),
        target=target,
        base_updates="100",
        device_kind=DeviceKind.CPU,
        loader=Loader(workers=0),
        facts=facts_after_a_step(case, variant),
    )


@contextlib.contextmanager
def gradients_of(model: nn.Module) -> Iterator[list[list[torch.Tensor]]]:
    """Collect the gradients of each update."""
    found: list[list[torch.Tensor]] = []

    def note(*_: Any) -> None:
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])

    handle = register_optimizer_step_pre_hook(note)
    try:
        yield found
    finally:
        handle.remove()


def train(case: Case, text: str, model: nn.Module) -> list[float]:
    """Run some updates that change nothing, each over the same images."""
    names = execute(text)
    if case.processes > 1:
        names |= TWO_PROCESSES
    given: dict[str, Any] = {"updates": UPDATES, "model": model}
    own = variant_of(case).own
    if own.optimizer is None:
        names |= {"LEARNING_RATE": 0.0, "UPDATES": 9, "WARMUP_UPDATES": 0}
    else:
        given["optimizer"] = torch.optim.SGD(model.parameters(), lr=0.0)
        names["RATE_FACTOR"] = 1.0
    if own.own_loss is not None:
        module, _, name = own.own_loss.partition(":")
        given["loss"] = getattr(__import__(module, fromlist=[name]), name)
    if case.batches is None:
        given["dataset"] = TensorDataset(case.images, case.labels)
    else:
        given["batches"] = [case.batches(part) for part in parts()]
    losses: list[float] = names["train"](**given)
    return losses


@pytest.mark.parametrize("name", CASES)
def test_the_snippets_gradient_is_that_of_one_large_batch(name: str) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    model = case.model()
    whole = case.whole(model)
    wanted = torch.autograd.grad(whole, list(model.parameters()))
    was_benchmarking = torch.backends.cudnn.benchmark

    text = rendered(case)

    with gradients_of(model) as found:
        losses = train(case, text, model)

    torch.backends.cudnn.benchmark = was_benchmarking
    expected = pytest.approx(whole.item(), rel=case.tolerance)
    assert losses == [expected] * UPDATES
    scale = max(gradient.abs().max().item() for gradient in wanted)
    assert found
    for gradients in found:
        torch.testing.assert_close(
            gradients, list(wanted), rtol=case.tolerance, atol=case.tolerance * scale
        )
