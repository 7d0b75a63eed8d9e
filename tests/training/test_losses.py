import pytest
import torch
from torch.nn import functional as F  # noqa: N812 - the name PyTorch's own code uses

from bsprobe.records.errors import UsageError
from bsprobe.records.variants import LossAt
from bsprobe.records.workload import Problem
from bsprobe.training.losses import (
    IGNORE,
    CrossEntropy,
    Loss,
    NetworkLoss,
    OwnLoss,
    classification_loss,
    segmentation_loss,
    thin_out,
    upsample,
    valid_pixels,
)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def labels() -> torch.Tensor:
    """Three images with 48, 40 and no valid pixels."""
    maps = torch.randint(0, 5, (3, 6, 8))
    maps[1, 0] = IGNORE
    maps[2] = IGNORE
    return maps


def test_valid_pixels_are_those_that_are_not_ignored_and_add_up_over_micro_batches(
    labels: torch.Tensor,
) -> None:
    given = ([labels[0]], [labels[1]], labels, [labels])

    assert [int(valid_pixels(*each)) for each in given] == [48, 40, 88, 88]


def test_nothing_is_divided_by_zero_where_all_pixels_are_ignored(labels: torch.Tensor) -> None:
    assert int(valid_pixels(labels[2], labels[2])) == 1


@pytest.mark.parametrize("size", [1, 2, 3])
def test_losses_of_micro_batches_add_up_to_the_mean_over_all_their_pixels(
    labels: torch.Tensor, size: int
) -> None:
    logits = torch.randn((3, 5, 6, 8))
    valid = valid_pixels(*labels)

    pairs = zip(logits.split(size), labels.split(size), strict=True)
    parts = [segmentation_loss(*pair, valid) for pair in pairs]

    torch.testing.assert_close(sum(parts), F.cross_entropy(logits, labels, ignore_index=255))


def test_a_micro_batch_without_valid_pixels_adds_nothing(labels: torch.Tensor) -> None:
    logits = torch.randn((1, 5, 6, 8), requires_grad=True)

    loss = segmentation_loss(logits, labels[2:], valid_pixels(labels))
    loss.backward()

    assert loss.item() == 0.0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_logits_are_brought_to_the_size_of_the_labels(labels: torch.Tensor) -> None:
    logits = torch.randn((3, 5, 2, 3))
    large = F.interpolate(logits, size=(6, 8), mode="bilinear", align_corners=False)

    loss = segmentation_loss(logits, labels, valid_pixels(labels))

    torch.testing.assert_close(loss, F.cross_entropy(large, labels, ignore_index=255))
    torch.testing.assert_close(upsample(logits, (6, 8)), large)
    assert upsample(large, (6, 8)) is large


def test_at_the_logits_size_labels_are_thinned_out_to_the_middle_of_each_cell() -> None:
    labels = torch.arange(6 * 9).reshape(1, 6, 9)
    assert thin_out(labels, (2, 3)).tolist() == [[[10, 13, 16], [37, 40, 43]]]
    assert thin_out(labels, (6, 9)).tolist() == labels.tolist()
    assert thin_out(labels, (5, 4)).shape == (1, 5, 4)


def test_the_loss_at_the_logits_size_is_a_mean_over_pixels_of_the_same_scale() -> None:
    labels = torch.randint(0, 5, (2, 3, 4))
    logits = torch.randn((2, 5, 3, 4))
    enlarged = labels.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)

    loss = segmentation_loss(logits, enlarged, valid_pixels(enlarged), LossAt.LOGITS)

    torch.testing.assert_close(loss, F.cross_entropy(logits, labels))
    whole = segmentation_loss(logits, labels, valid_pixels(labels), LossAt.LOGITS)
    torch.testing.assert_close(whole, F.cross_entropy(logits, labels))


def test_the_auxiliary_loss_weighs_half_where_there_is_one(labels: torch.Tensor) -> None:
    main, auxiliary = torch.randn((3, 5, 6, 8)), torch.randn((3, 5, 3, 4))
    valid = valid_pixels(labels)

    loss = segmentation_loss({"out": main, "aux": auxiliary}, labels, valid)

    parts = [segmentation_loss(logits, labels, valid) for logits in (main, auxiliary)]
    torch.testing.assert_close(loss, parts[0] + 0.5 * parts[1])
    assert torch.equal(segmentation_loss({"out": main}, labels, valid), parts[0])


def test_the_loss_of_half_precision_logits_is_summed_in_full_precision(
    labels: torch.Tensor,
) -> None:
    logits = torch.randn((3, 5, 6, 8)).bfloat16()
    valid = valid_pixels(labels)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = segmentation_loss(logits, labels, valid)

    torch.testing.assert_close(loss, segmentation_loss(logits.float(), labels, valid))


def summed(
    loss: Loss, outputs: torch.Tensor, targets: torch.Tensor, sizes: list[int]
) -> torch.Tensor:
    """The sum of the parts of micro-batches of these sizes."""
    count = loss.counted(targets.split(sizes))
    pairs = zip(outputs.split(sizes), targets.split(sizes), strict=True)
    return torch.stack([loss(*pair, count) for pair in pairs]).sum()


def test_losses_of_classified_images_add_up_to_the_mean_and_ignore_no_class() -> None:
    logits, classes = torch.randn((3, 300)), torch.tensor([255, 7, 255])
    loss = CrossEntropy(problem=Problem.CLASSIFICATION)

    torch.testing.assert_close(
        summed(loss, logits, classes, [1, 2]), F.cross_entropy(logits, classes)
    )


@pytest.mark.parametrize("problem", [Problem.SEGMENTATION, Problem.CLASSIFICATION])
def test_a_network_that_cannot_tell_all_classes_apart_is_refused(problem: Problem) -> None:
    # PyTorch raises nothing on fake tensors, and fails an assertion in a kernel on a GPU.
    size = (4, 6) if problem is Problem.SEGMENTATION else ()
    labels = torch.zeros((2, *size), dtype=torch.int64)
    loss = CrossEntropy(problem=problem, classes=5)
    count = loss.counted([labels])
    enough, few = torch.randn((2, 6, *size)), torch.randn((2, 4, *size))

    assert loss(enough, labels, count).isfinite()
    for outputs in (few, {"out": enough, "aux": few}):
        with pytest.raises(UsageError, match="4 logits for 5 classes") as caught:
            loss(outputs, labels, count)
        assert "--model-arg num_classes" in str(caught.value.hint)


def test_a_loss_of_your_own_is_the_mean_over_the_micro_batches() -> None:
    outputs, targets = torch.randn((4, 3)), torch.randn((4, 3))

    found = summed(OwnLoss(function=F.mse_loss), outputs, targets, [2, 2])

    torch.testing.assert_close(found, F.mse_loss(outputs, targets))


def test_a_single_logit_tells_class_one_from_the_others() -> None:
    logits = torch.randn(2, 1, 4, 4)
    labels = torch.randint(0, 2, (2, 4, 4))
    labels[0, 0] = 255
    counted = labels != 255

    loss = segmentation_loss(logits, labels, valid_pixels(labels))

    expected = F.binary_cross_entropy_with_logits(logits[:, 0][counted], labels[counted].float())
    torch.testing.assert_close(loss, expected)
    of_images = classification_loss(torch.tensor([[2.0], [-1.0]]), torch.tensor([1, 0]), 2)
    wanted = -F.logsigmoid(torch.tensor([2.0, 1.0])).mean()
    torch.testing.assert_close(of_images, wanted)


def test_logits_of_volumes_are_compared_at_the_size_of_their_labels() -> None:
    labels = torch.randint(0, 3, (2, 4, 6, 8))
    logits = torch.randn(2, 3, 2, 3, 4)
    large = F.interpolate(logits, size=(4, 6, 8), mode="trilinear", align_corners=False)

    torch.testing.assert_close(upsample(logits, (4, 6, 8)), large)
    assert thin_out(labels, (2, 3, 4)).tolist() == labels[:, 1::2, 1::2, 1::2].tolist()
    loss = segmentation_loss(logits, labels, valid_pixels(labels))
    torch.testing.assert_close(loss, F.cross_entropy(large, labels))


@pytest.mark.parametrize("of", ["pixels", "one channel", "images"])
def test_without_a_loss_of_its_own_a_networks_logits_are_compared_with_the_targets(of: str) -> None:
    if of == "images":
        logits, labels = torch.randn(4, 3), torch.randint(0, 3, (4,))
    else:
        logits, labels = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    targets = labels[:, None].float() if of == "one channel" else labels

    torch.testing.assert_close(
        NetworkLoss()({"logits": logits}, targets, 2), F.cross_entropy(logits, labels) / 2
    )


def test_outputs_without_a_loss_or_logits_are_refused_with_a_hint() -> None:
    with pytest.raises(UsageError, match=r"type dict .*type list") as caught:
        NetworkLoss()({"boxes": torch.zeros(2, 4)}, [], 1)
    assert "--loss" in str(caught.value.hint)
