"""A training script that behaves well under `bsprobe run -- python train.py ...`."""

import argparse
import itertools
import os
from pathlib import Path

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--batch-size", type=int, default=8)
parser.add_argument("--accumulation", type=int, default=1)
parser.add_argument("--out", type=Path, default=Path("checkpoints"))
parser.add_argument("--lr", type=float, default=1e-3)
parser.add_argument("--updates", type=int, default=1000)
options = parser.parse_args()
IS_TRIAL = os.environ.get("BSPROBE_TRIAL") == "1"  # bsprobe only asks for a few steps
CHECKPOINT = options.out / "last.pt"


def main() -> None:
    """Train on random images; resume from the checkpoint and save it, except in a trial."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    width = 16
    model = nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 10),
    ).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr)
    if CHECKPOINT.exists() and not IS_TRIAL:
        model.load_state_dict(torch.load(CHECKPOINT, weights_only=True))
    for update in itertools.islice(itertools.count(1), options.updates):
        for _ in range(options.accumulation):
            images = torch.rand(options.batch_size, 3, 64, 64, device=device)
            labels = torch.randint(10, (options.batch_size,), device=device)
            loss = nn.functional.cross_entropy(model(images), labels)
            (loss / options.accumulation).backward()
        optimizer.step()
        optimizer.zero_grad()
        if update % 100 == 0 and not IS_TRIAL:
            options.out.mkdir(parents=True, exist_ok=True)
            torch.save(model.state_dict(), CHECKPOINT)


if __name__ == "__main__":
    main()
