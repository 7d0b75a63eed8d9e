"""What torch's own launcher, torchrun, tells each of the processes that it starts."""

from collections.abc import Mapping
from dataclasses import dataclass

from bsprobe.records.errors import UsageError

_NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")
"""Set by `LocalElasticAgent._start_workers` (torch/distributed/elastic), as is all that is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One process among those that torchrun has started together."""

    rank: int
    processes: int
    local_rank: int
    """Among those of this machine: the index of its GPU."""
    local_processes: int
    host: str
    port: int
    """Where all processes can meet: there is a store, or rank 0 is to open one."""
    agent_has_store: bool
    name: str
    """Of this start of this job: what an earlier one has left in the store is not met again."""

    @property
    def leads(self) -> bool:
        """Whether this process searches, prints and writes; the others follow it."""
        return self.rank == 0

    def command(self, arguments: str) -> str:
        """The command line that starts all processes on one machine."""
        machines = self.processes // self.local_processes
        nodes = f"--nnodes {machines} " if machines > 1 else ""
        return f"torchrun {nodes}--nproc-per-node {self.local_processes} -m bsprobe {arguments}"


def follows(environment: Mapping[str, str]) -> bool:
    """Whether torchrun started this process, and another one of them is the first."""
    return "TORCHELASTIC_RUN_ID" in environment and environment.get("RANK", "0") != "0"


def launched(environment: Mapping[str, str]) -> Launch | None:
    """What torchrun says in the environment; None where it started no or only one process.

    Raises:
        UsageError: It says something that torchrun does not say.
    """
    if "TORCHELASTIC_RUN_ID" not in environment:
        return None
    try:
        rank, processes, local_rank, local_processes, port = (int(environment[n]) for n in _NEEDED)
    except (KeyError, ValueError) as error:
        raise UsageError(
            f"TORCHELASTIC_RUN_ID is set, but {', '.join(_NEEDED)} are not all numbers: {error}",
            hint="start with torchrun --nproc-per-node N -m bsprobe run, or unset "
            "TORCHELASTIC_RUN_ID",
        ) from error
    if processes == 1:
        return None
    restart = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
    return Launch(
        rank=rank,
        processes=processes,
        local_rank=local_rank,
        local_processes=local_processes,
        host=environment.get("MASTER_ADDR", "localhost"),
        port=port,
        agent_has_store=environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        name=f"bsprobe/{environment['TORCHELASTIC_RUN_ID']}/{restart}",
    )


def command_of(arguments: str, environment: Mapping[str, str]) -> str:
    """The command that starts bsprobe as this process was started: alone, or by torchrun."""
    launch = launched(environment)
    return f"bsprobe {arguments}".rstrip() if launch is None else launch.command(arguments)
