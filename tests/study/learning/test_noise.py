"""Gradient norms of a network, compared with those of all images of a population."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import nn

from bsprobe.records.variants import Norm
from bsprobe.study.learning.noise import noise_sample, square_norms
from bsprobe.study.noise_scale import noise_scale
from bsprobe.training.batches import synthetic_batch
from bsprobe.training.losses import segmentation_loss
from bsprobe.training.step import Batch, Task, build_task
from tests.support.tiny_networks import VARIANT

CPU = torch.device("cpu")
POPULATION = 12


def population() -> list[Batch]:
    """Single images, some with ignored pixels."""
    whole = synthetic_batch(VARIANT, POPULATION, device=CPU, seed=5)
    whole.labels[:4, :8] = 255
    images, labels = whole.images.split(1), whole.labels.split(1)
    return [Batch(images=image, labels=label) for image, label in zip(images, labels, strict=True)]


def gradient(task: Task, batch: Batch) -> torch.Tensor:
    pixels = torch.tensor(batch.labels.numel())
    loss = segmentation_loss(task.model(batch.images), batch.labels, pixels)
    parts = torch.autograd.grad(loss, list(task.model.parameters()))
    return torch.cat([part.flatten() for part in parts]).double()


@pytest.mark.parametrize("norm", [Norm.BATCH, Norm.GROUP])
def test_samples_of_a_network_come_to_the_scale_of_its_population(norm: Norm) -> None:
    task = build_task(replace(VARIANT, norm=norm), CPU)
    images = population()
    task.model.eval()
    each = torch.stack([gradient(task, image) for image in images])
    task.model.train()
    mean = each.mean(dim=0)
    trace = (each - mean).square().sum(dim=1).mean()
    true_scale = (trace / mean.square().sum()).item()

    generator = torch.Generator().manual_seed(1)
    drawn = torch.randint(len(images), (150, 8), generator=generator).tolist()
    samples = [noise_sample(task, [images[i] for i in eight], updates=3) for eight in drawn]

    found = noise_scale(samples)
    assert found is not None
    assert found.images == pytest.approx(true_scale, rel=0.15)
    assert found.low < true_scale < (found.high or 0)


def test_the_norms_are_of_each_batch_and_of_their_mean() -> None:
    model = nn.Linear(2, 1, bias=False)
    model.weight.data.zero_()
    targets = torch.tensor([[3.0, 0.0], [0.0, 4.0]])

    def losses() -> Iterator[object]:
        for target in targets:
            yield lambda target=target: (model.weight * target).sum()

    assert square_norms(model, losses()) == (12.5, 6.25, 2)  # type: ignore[arg-type] # a lambda has no such type


def test_sampling_changes_nothing() -> None:
    task = build_task(VARIANT, CPU)
    before = {name: value.clone() for name, value in task.model.state_dict().items()}

    sample = noise_sample(task, population()[:8], updates=7)

    assert (sample.updates, sample.small_batch, sample.big_batch) == (7, 1, 8)
    torch.testing.assert_close(dict(task.model.state_dict()), before, rtol=0, atol=0)
    assert [p.grad for p in task.model.parameters()] == [None] * 6
    assert task.model.training
