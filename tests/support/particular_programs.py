"""Programs with unusual behaviour: conditions, autocast, copies and counters."""

import copy
import random

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name PyTorch's own code uses

from bsprobe.records.variants import Variant
from tests.support.traced_networks import PlainNet

LARGE = 250_000


class SkipsBadGradients(torch.optim.AdamW):
    """Skips an update if the norm of the gradients is not a number."""

    def step(self, closure: None = None) -> None:  # type: ignore[override] # AdamW's
        parameters = [p for group in self.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        if torch.isnan(norm) or torch.isinf(norm):
            return
        super().step(closure)


class SharedState(torch.optim.SGD):
    """Has one state entry shared by all parameters, like the step count of MADGRAD."""

    def __init__(self, parameters: object) -> None:
        super().__init__(parameters, lr=0.1)  # type: ignore[arg-type] # of any kind
        self.state["k"] = torch.zeros(4)  # type: ignore[index] # as in MADGRAD


class Counts(PlainNet):
    """Takes more memory from its third forward pass on."""

    def __init__(self, variant: Variant) -> None:
        super().__init__(variant)
        self.passes = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        logits = super().forward(images)
        return logits + images.new_zeros(LARGE).sum() if self.passes > 2 else logits


class Draws(PlainNet):
    """Repeats a layer a random number of times."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.features(images)
        for _ in range(random.randint(1, 30)):
            features = torch.relu(features)
        logits: torch.Tensor = self.classifier(features)
        return logits


class HasTeacher(PlainNet):
    """Contains a copy of itself, made at the first pass, that also runs on the images."""

    def __init__(self, variant: Variant) -> None:
        super().__init__(variant)
        self.teacher: list[nn.Module] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if not self.teacher:
            self.teacher.append(copy.deepcopy(self))
        with torch.no_grad():
            wanted = self.teacher[0].classifier(self.teacher[0].features(images))  # type: ignore[operator] # layers
        logits: torch.Tensor = super().forward(images) + 0 * wanted
        return logits


class Cycles(PlainNet):
    """Leaves a reference cycle behind in each pass."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = super().forward(images)
        kept: dict[str, object] = {"logits": logits.detach().clone()}
        kept["itself"] = kept
        return logits


def two_questions_in_a_line(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    mask = labels == 1
    loss = logits.mean()
    if mask.any() and not mask.all():
        loss = loss + logits.new_zeros(LARGE).exp().mean()
    return loss


def has(mask: torch.Tensor) -> bool:
    return bool(mask.any())


def one_question_from_two_places(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    loss = logits.mean()
    if has(labels == 1) and not has(labels == 2):
        loss = loss + logits.new_zeros(LARGE).exp().mean()
    return loss


def an_island_of_fp32(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    del labels
    assert torch.is_autocast_enabled()
    with torch.autocast("cuda", enabled=False):
        weight = logits.new_ones(2, logits.shape[1], 1, 1, dtype=torch.float32)
        loss: torch.Tensor = F.conv2d(logits.float(), weight).mean()
    return loss


def says_what_it_does(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Compute a loss that prints, waits for the device, compares and counts; none takes memory."""
    loss = F.cross_entropy(logits, labels[:, ::4, ::4], ignore_index=255)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    print(f"{loss:.3f}")  # noqa: T201 - as users do
    counts = torch.bincount(labels.view(-1), minlength=256)
    if torch.allclose(logits, logits + 1):
        raise ValueError("all alike")
    return loss + 0 * counts.sum()
