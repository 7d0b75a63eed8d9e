from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional as F  # noqa: N812 - the name PyTorch's own code uses

from bsprobe.study.learning.evaluation import confusion_matrix
from bsprobe.study.learning.validation import validate
from bsprobe.training.batches import synthetic_batch
from bsprobe.training.step import Batch, Task, build_task
from tests.support.tiny_networks import VARIANT

CPU = torch.device("cpu")


@pytest.fixture
def task() -> Task:
    return build_task(VARIANT, CPU)


def images() -> Iterator[Batch]:
    """Three images, whose labels are larger and differ in size."""
    for seed, (height, width) in enumerate([(64, 96), (40, 60), (64, 96)]):
        batch = synthetic_batch(VARIANT, 1, device=CPU, seed=seed)
        labels = torch.randint(0, 4, (1, height, width))
        labels[:, : 9 * seed] = 255
        yield Batch(images=batch.images, labels=labels)


def test_loss_and_confusion_are_over_all_valid_pixels_at_the_size_of_the_labels(
    task: Task,
) -> None:
    shown = list(images())
    task.model.eval()
    with torch.no_grad():
        logits = [
            F.interpolate(task.model(b.images), size=b.labels.shape[-2:], mode="bilinear")
            for b in shown
        ]
    task.model.train()
    labels = [b.labels.flatten() for b in shown]
    flat = torch.cat([one.permute(0, 2, 3, 1).reshape(-1, 4) for one in logits])
    expected = confusion_matrix(flat.argmax(dim=1), torch.cat(labels), classes=4)

    found = validate(task, shown, classes=4)

    assert torch.equal(found.confusion, expected)
    assert found.loss == pytest.approx(
        F.cross_entropy(flat, torch.cat(labels), ignore_index=255).item(), rel=1e-5
    )
    assert found.images == 3
    assert task.model.training


def test_a_network_that_has_become_nan_is_still_counted(task: Task) -> None:
    for parameter in task.model.parameters():
        parameter.data.fill_(float("nan"))

    found = validate(task, images(), classes=4)

    assert found.loss is None
    assert int(found.confusion.sum()) > 0
