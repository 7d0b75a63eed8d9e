"""The environment variables that torchrun, torch's launcher, sets for each of its processes."""

from collections.abc import Mapping
from dataclasses import dataclass

from bsprobe.records.errors import UsageError

_NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")
"""Set, like all variables read here, by `LocalElasticAgent._start_workers` in
torch/distributed/elastic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One of the processes that torchrun has started together."""

    rank: int
    processes: int
    local_rank: int
    """Rank on this machine, which is the index of its GPU."""
    local_processes: int
    host: str
    port: int
    """Of the store for all processes; rank 0 opens it unless `agent_has_store`."""
    agent_has_store: bool
    name: str
    """Unique to this start of the job, so that keys of an earlier start are not read."""

    @property
    def leads(self) -> bool:
        """True if this process searches, prints and writes; the others follow it."""
        return self.rank == 0

    def command(self, arguments: str) -> str:
        """Return the command line that starts all processes of one machine."""
        machines = self.processes // self.local_processes
        nodes = f"--nnodes {machines} " if machines > 1 else ""
        return f"torchrun {nodes}--nproc-per-node {self.local_processes} -m bsprobe {arguments}"


def follows(environment: Mapping[str, str]) -> bool:
    """Return whether torchrun started this process as a rank other than 0."""
    return "TORCHELASTIC_RUN_ID" in environment and environment.get("RANK", "0") != "0"


def launched(environment: Mapping[str, str]) -> Launch | None:
    """Read torchrun's variables; return None without torchrun or for a single process.

    Raises:
        UsageError: A variable is missing or not a number.
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
    """Return the command that starts bsprobe as this process was started: alone, or by torchrun."""
    launch = launched(environment)
    return f"bsprobe {arguments}".rstrip() if launch is None else launch.command(arguments)
