"""What the snippet has in addition where several processes train together."""

import textwrap

from bsprobe.records.trials import Ddp
from bsprobe.records.variants import Norm

_ALONE = {
    "imports": "import itertools\n\nimport torch\n",
    "loader_imports": "from torch.utils.data import DataLoader\n",
    "processes": "",
    "epochs": "",
    "device_setup": "    device = torch.device(device)\n",
    "replicate": "",
    "shuffle": "shuffle=True",
    "endless": "itertools.chain.from_iterable(itertools.repeat(loader))",
    "share": "",
    "note": "        losses.append(total)\n",
}
_TOGETHER = {
    "imports": "import contextlib\nimport itertools\nimport os\n\nimport torch\n"
    "import torch.distributed as dist\n",
    "loader_imports": "from torch.nn.parallel import DistributedDataParallel\n"
    "from torch.utils.data import DataLoader, DistributedSampler\n",
    "epochs": '''\
def epochs(loader, sampler):
    """Batches without end; each epoch in another order, which all processes share."""
    for epoch in itertools.count():
        sampler.set_epoch(epoch)
        yield from loader


''',
    "device_setup": """\
    device = torch.device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    assert dist.get_world_size() == PROCESSES
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
""",
    "shuffle": "sampler=sampler",
    "endless": "epochs(loader, sampler)",
    "share": """\
        counted = torch.tensor(valid, device=device)
        dist.all_reduce(counted)
        valid = counted.item() / PROCESSES  # the average over the processes divides by them
""",
    "note": "        dist.all_reduce(total)\n        losses.append(total / PROCESSES)\n",
}
_REPLICATE = """\
    model = DistributedDataParallel({arguments})
    sampler = DistributedSampler(dataset, shuffle=True, drop_last=True)
"""
_CONVERT = "    model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)\n"


def pieces(processes: int, norm: Norm, ddp: Ddp) -> dict[str, str]:
    """The parts of the snippet that depend on the number of processes."""
    if processes == 1:
        return {**_ALONE, "convert": "", "start": ""}
    return {
        **_TOGETHER,
        "processes": f"PROCESSES = {processes}\n",
        "replicate": _replicate(ddp),
        "convert": _CONVERT if norm is Norm.SYNC_BATCH else "",
        "start": "\nStart the script that calls `train` as so many processes: "
        f"torchrun --nproc-per-node {processes} SCRIPT.\n",
    }


def _replicate(ddp: Ddp) -> str:
    """The network under DistributedDataParallel, in one line where that fits."""
    arguments = ["model", 'device_ids=[device] if device.type == "cuda" else None', *ddp.arguments]
    if ddp.arguments:
        listed = "".join(f"        {each},\n" for each in arguments)
        return _REPLICATE.format(arguments=f"\n{listed}    ")
    return _REPLICATE.format(arguments=", ".join(arguments))


def micro_step(body: str, processes: int) -> str:
    """The forward and backward pass of a micro-batch: only the last one averages gradients."""
    if processes == 1:
        return f"        for images, labels in micro_batches:\n{body}"
    return (
        "        for number, (images, labels) in enumerate(micro_batches, start=1):\n"
        "            is_last = number == ACCUMULATION_STEPS\n"
        "            with contextlib.nullcontext() if is_last else model.no_sync():\n"
        + textwrap.indent(body, "    ")
    )
