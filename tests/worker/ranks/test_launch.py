"""The environment variables of torchrun."""

import pytest

from bsprobe.records.errors import UsageError
from bsprobe.worker.ranks.launch import Launch, follows, launched

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "abc",
    "TORCHELASTIC_RESTART_COUNT": "1",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "node0",
    "MASTER_PORT": "29500",
}


def test_torchruns_variables_are_read() -> None:
    assert launched(TORCHRUN) == Launch(
        rank=5,
        processes=8,
        local_rank=1,
        local_processes=4,
        host="node0",
        port=29500,
        agent_has_store=True,
        name="bsprobe/abc/1",
    )


def test_a_single_process_or_one_without_torchrun_has_no_launch() -> None:
    assert launched({**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1"}) is None
    assert launched({"RANK": "1", "WORLD_SIZE": "2"}) is None, "not set by torchrun"


@pytest.mark.parametrize("damage", [{"RANK": "first"}, {"MASTER_PORT": ""}])
def test_a_variable_that_is_no_number_is_refused(damage: dict[str, str]) -> None:
    (value,) = damage.values()
    with pytest.raises(UsageError, match=f"TORCHELASTIC_RUN_ID.*{value!r}"):
        launched({**TORCHRUN, **damage})


def test_rank_0_leads_and_the_others_follow() -> None:
    assert [follows({**TORCHRUN, "RANK": rank}) for rank in ("0", "5")] == [False, True]
    assert not follows({"RANK": "5"})


@pytest.mark.parametrize(
    ("local", "command"),
    [
        ("4", "torchrun --nnodes 2 --nproc-per-node 4 -m bsprobe run"),
        ("8", "torchrun --nproc-per-node 8 -m bsprobe run"),
    ],
)
def test_the_command_starts_all_processes_of_one_machine(local: str, command: str) -> None:
    launch = launched({**TORCHRUN, "LOCAL_WORLD_SIZE": local})
    assert launch is not None
    assert launch.command("run") == command
