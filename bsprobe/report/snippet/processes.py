"""The parts of the snippet that depend on the number of processes."""

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
    """Endless batches; each epoch has another order, which is the same in all processes."""
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
        valid = counted.item() / PROCESSES  # averaging over the processes divides by them
""",
    "note": "        dist.all_reduce(total)\n        losses.append(total / PROCESSES)\n",
}
_REPLICATE = """\
    model = DistributedDataParallel({arguments})
    sampler = DistributedSampler(dataset, shuffle=True, drop_last=True)
"""
_CONVERT = "    model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)\n"


def pieces(processes: int, norm: Norm, ddp: Ddp) -> dict[str, str]:
    """Return the parts of the snippet that depend on the number of processes.

    Args:
        processes: The number of processes.
        norm: The norm; `sync-batch` is converted.
        ddp: The setting of DistributedDataParallel.
    """
    if processes == 1:
        return {**_ALONE, "convert": "", "start": ""}
    return {
        **_TOGETHER,
        "processes": f"PROCESSES = {processes}\n",
        "replicate": _replicate(ddp),
        "convert": _CONVERT if norm is Norm.SYNC_BATCH else "",
        "start": "\nStart the script that calls `train` with torchrun: "
        f"torchrun --nproc-per-node {processes} SCRIPT.\n",
    }


def _replicate(ddp: Ddp) -> str:
    """The network in DistributedDataParallel, on one line if it fits."""
    arguments = ["model", 'device_ids=[device] if device.type == "cuda" else None', *ddp.arguments]
    if ddp.arguments:
        listed = "".join(f"        {each},\n" for each in arguments)
        return _REPLICATE.format(arguments=f"\n{listed}    ")
    return _REPLICATE.format(arguments=", ".join(arguments))


def micro_step(body: str, processes: int) -> str:
    """Return the loop over micro-batches; only the last one averages gradients."""
    if processes == 1:
        return f"        for images, labels in micro_batches:\n{body}"
    return (
        "        for number, (images, labels) in enumerate(micro_batches, start=1):\n"
        "            is_last = number == ACCUMULATION_STEPS\n"
        "            with contextlib.nullcontext() if is_last else model.no_sync():\n"
        + textwrap.indent(body, "    ")
    )
