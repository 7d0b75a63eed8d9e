"""deeplabv2-mini at 64x128, fp32 / batch: what bsprobe recommends.

Measured on CPU (AMD EPYC): the largest batch that ran is 49.

Start the script that calls `train` with torchrun: torchrun --nproc-per-node 2 SCRIPT.
"""

import contextlib
import itertools
import os

import torch
import torch.distributed as dist
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

MICRO_BATCH = 5
ACCUMULATION_STEPS = 1  # effective batch 10
PROCESSES = 2
LEARNING_RATE = 0.00025  # linear rule from 0.00025 at batch 10
WEIGHT_DECAY = 5e-4
UPDATES = 20000  # as many images as 20000 updates of 10
WARMUP_UPDATES = 0
IGNORE = 255

CLASSIFIER = "layer5."  # prefix of the names of your classifier's parameters


def parameter_groups(model):
    """Backbone 1x, classifier weights 10x, classifier biases 20x without weight decay."""
    backbone, weights, biases = [], [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if not name.startswith(CLASSIFIER):
            backbone.append(parameter)
        elif name.endswith("bias"):
            biases.append(parameter)
        else:
            weights.append(parameter)
    return [
        {"params": backbone, "lr": LEARNING_RATE, "weight_decay": WEIGHT_DECAY},
        {"params": weights, "lr": 10 * LEARNING_RATE, "weight_decay": WEIGHT_DECAY},
        {"params": biases, "lr": 20 * LEARNING_RATE, "weight_decay": 0.0},
    ]


def schedule(update):
    """Linear warm-up, then poly with power 0.9; counts optimizer updates."""
    if update < WARMUP_UPDATES:
        return (update + 1) / WARMUP_UPDATES
    return max(0.0, 1 - update / UPDATES) ** 0.9


def logits_of(outputs, size):
    """The main logits of a network, at the size of the labels."""
    logits = outputs["out"] if isinstance(outputs, dict) else outputs
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def epochs(loader, sampler):
    """Endless batches; each epoch has another order, which is the same in all processes."""
    for epoch in itertools.count():
        sampler.set_epoch(epoch)
        yield from loader


def train(model, dataset, device="cpu", updates=UPDATES, workers=4):
    """Train on (image, label) pairs: float (3, H, W) and int64 train ids (H, W)."""
    device = torch.device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    assert dist.get_world_size() == PROCESSES
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    model = model.to(device).train()
    groups = parameter_groups(model)
    model = DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)
    sampler = DistributedSampler(dataset, shuffle=True, drop_last=True)
    optimizer = torch.optim.SGD(groups, lr=LEARNING_RATE, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    scaler = torch.amp.GradScaler(device.type, enabled=False)
    loader = DataLoader(
        dataset,
        batch_size=MICRO_BATCH,
        sampler=sampler,
        drop_last=True,  # a last, smaller batch would give BatchNorm other statistics
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
    )
    endless = epochs(loader, sampler)
    losses = []
    for _ in range(updates):
        micro_batches = list(itertools.islice(endless, ACCUMULATION_STEPS))
        # Divide by the valid pixels of the whole effective batch: a mean of the means of
        # micro-batches would weigh pixels unequally, and be NaN if one has no valid pixel.
        valid = max(1, sum(int((labels != IGNORE).sum()) for _, labels in micro_batches))
        counted = torch.tensor(valid, device=device)
        dist.all_reduce(counted)
        valid = counted.item() / PROCESSES  # averaging over the processes divides by them
        total = torch.zeros((), device=device)
        for number, (images, labels) in enumerate(micro_batches, start=1):
            is_last = number == ACCUMULATION_STEPS
            with contextlib.nullcontext() if is_last else model.no_sync():
                images = images.to(device, non_blocking=True)
                labels = labels.to(device, non_blocking=True)
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=False):
                    logits = logits_of(model(images), labels.shape[1:])
                    loss = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum") / valid
                scaler.scale(loss).backward()
                total += loss.detach()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        scheduler.step()
        dist.all_reduce(total)
        losses.append(total / PROCESSES)
    return [loss.item() for loss in losses]
