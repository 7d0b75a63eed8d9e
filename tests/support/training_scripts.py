"""Training scripts of users, which differ as they do in practice.

Run as a program: `training_scripts.py KIND BATCH`.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

SIDES = (128, 256)
CLASSES = 19
Sample = tuple[Tensor, Tensor]


def build() -> nn.Module:
    """Return the network, also as a factory for `--model`."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Conv2d(64, CLASSES, 1),
    )


def sample(*sizes: int) -> Sample:
    """Return images and labels."""
    return torch.randn(*sizes, 3, *SIDES), torch.randint(0, CLASSES, (*sizes, *SIDES))


def train(network: nn.Module, batches: Iterator[Sample]) -> None:
    """Train as the most common loop does: outputs live until the next step."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    for images, labels in batches:
        logits = network(images)
        loss = nn.functional.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def repeated(batch: int) -> Iterator[Sample]:
    """Yield one batch without end."""
    kept = sample(batch)
    while True:
        yield kept


def plain(batch: int) -> None:
    """Train on one batch."""
    train(build(), repeated(batch))


class Images(Dataset[Sample]):
    """Random images."""

    def __len__(self) -> int:
        return 10_000

    def __getitem__(self, index: int) -> Sample:
        return sample()


def loader(batch: int) -> None:
    """Train with workers that load data, beside a forked process."""
    if os.fork() == 0:
        time.sleep(1)
        os._exit(0)
    train(build(), iter(DataLoader(Images(), batch_size=batch, num_workers=2)))


def distributed(batch: int) -> None:
    """Train as a rank of `torchrun`."""
    torch.distributed.init_process_group("gloo")
    train(DistributedDataParallel(build()), repeated(batch))


def swallow(batch: int) -> None:
    """Halve the batch when memory runs out, as batch finders do."""
    while True:
        try:
            plain(batch)
        except RuntimeError:
            batch = max(1, batch // 2)


def bug(batch: int) -> None:
    """Fail at batch 4 for another reason than memory."""
    if batch >= 4:
        raise ValueError("no memory of class 4")
    plain(batch)


KINDS: dict[str, Callable[[int], None]] = {
    "plain": plain,
    "loader": loader,
    "distributed": distributed,
    "swallow": swallow,
    "bug": bug,
}

if __name__ == "__main__":
    KINDS[sys.argv[1]](int(sys.argv[2]))
