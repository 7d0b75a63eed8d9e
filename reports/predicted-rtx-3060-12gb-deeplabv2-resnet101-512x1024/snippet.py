"""deeplabv2-resnet101 at 512x1024, amp-fp16 / batch: what bsprobe recommends.

Predicted on RTX 3060 12GB: the largest batch that should run is 5.
"""

import itertools

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

MICRO_BATCH = 5
ACCUMULATION_STEPS = 2  # effective batch 10
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


def endless(batches):
    """Epoch after epoch of batches; the last update of an epoch goes on in the next one."""
    for epoch in itertools.count():
        is_over = True
        for batch in batches:
            is_over = False
            yield batch
        if is_over:
            raise SystemExit("the data set has fewer images than MICRO_BATCH")


def cross_entropy(logits, labels):
    """The cross-entropy of pixels, summed over the valid ones."""
    size = labels.shape[1:]
    logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    return F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")


def loss(outputs, labels):
    """The loss of a micro-batch, summed over its valid pixels."""
    return cross_entropy(outputs, labels)


def counted(labels):
    """The number of valid pixels."""
    return int((labels != IGNORE).sum())


def train(model, dataset, device="cuda", updates=None, workers=4):
    """Train on (image, label) pairs: float (3, H, W) and int64 train ids (H, W)."""
    updates = UPDATES if updates is None else updates
    device = torch.device(device)
    model = model.to(device).train()
    groups = parameter_groups(model)
    optimizer = torch.optim.SGD(groups, lr=LEARNING_RATE, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    scaler = torch.amp.GradScaler(device.type, enabled=True)
    batches = DataLoader(
        dataset,
        batch_size=MICRO_BATCH,
        shuffle=True,
        drop_last=True,  # a last, smaller batch would give BatchNorm other statistics
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
    )
    stream = endless(batches)
    losses = []
    for _ in range(updates):
        micro_batches = list(itertools.islice(stream, ACCUMULATION_STEPS))
        # A micro-batch counts by its share of the pixels of the effective batch. With equal
        # shares, pixels would weigh more in a micro-batch that has few.
        counts = [counted(batch[1]) for batch in micro_batches]
        whole = sum(counts) or 1
        total = torch.zeros((), device=device)
        for batch in micro_batches:
            images, labels = batch
            images = images.to(device, non_blocking=True)
            labels = labels.to(device, non_blocking=True)
            with torch.autocast(device.type, dtype=torch.float16, enabled=True):
                part = loss(model(images), labels) / whole
            scaler.scale(part).backward()
            total += part.detach()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        scheduler.step()
        losses.append(total)
    return [total.item() for total in losses]
