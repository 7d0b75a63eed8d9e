"""The store of torchrun's processes, and the process groups of their workers."""

from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined] # documented, but not marked as exported

from bsprobe.records.errors import OutOfReachError
from bsprobe.worker.protocol import Group
from bsprobe.worker.ranks.launch import Launch
from bsprobe.worker.ranks.world import Store

_CONNECT_TIMEOUT = timedelta(seconds=60)


def connect(launch: Launch) -> Store:
    """Connect to the store of all ranks, or host it.

    Args:
        launch: The variables of torchrun.

    Raises:
        OutOfReachError: The store cannot be reached.
    """
    hosts = launch.leads and not launch.agent_has_store
    try:
        server = TCPStore(
            launch.host,
            launch.port,
            is_master=hosts,
            timeout=_CONNECT_TIMEOUT,
            wait_for_workers=False,
        )
    except RuntimeError as error:
        raise OutOfReachError(
            f"rank {launch.rank} cannot reach the store at {launch.host}:{launch.port}: "
            f"{str(error).splitlines()[0]}",
            hint="check torchrun's --rdzv-endpoint, or --master-addr and --master-port",
        ) from error
    store: Store = PrefixStore(launch.name, server)
    return store


def join(group: Group, device: torch.device) -> None:
    """Join the process group of a trial, and wait for all members.

    Args:
        group: The process group.
        device: The device, which decides the backend: NCCL on a GPU, Gloo on the CPU.

    Raises:
        RuntimeError: A member did not join in time, or was lost.
    """
    timeout = timedelta(seconds=group.timeout_seconds)
    server = TCPStore(group.host, group.port, is_master=False, timeout=timeout)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=PrefixStore(group.name, server),
        rank=group.rank,
        world_size=group.processes,
        timeout=timeout,
    )
    # The first collective waits for all members and opens the connections, whose memory must not
    # count for the trial.
    dist.all_reduce(torch.zeros(1, device=device))
