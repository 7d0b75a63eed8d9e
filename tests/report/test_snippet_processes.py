"""The snippet for several processes, started by torchrun, trains like one process."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bsprobe.records.runs import Recommendation, Run
from bsprobe.records.trials import Ddp
from bsprobe.records.variants import Norm
from bsprobe.report.snippet import snippet
from tests.support.snippet_training import trained
from tests.support.torchrun import torchrun

SCRIPT = """\
import json
from tests.support.snippet_training import trained
text = open("snippet.py").read()
losses, weights = trained(text, accumulation=2)
import torch.distributed as dist
with open(f"rank{dist.get_rank()}.json", "w") as file:
    json.dump([losses, weights], file)
dist.barrier()
dist.destroy_process_group()
"""


def rendered(run: Run, item: Recommendation, processes: int, norm: Norm = Norm.BATCH) -> str:
    """Return the snippet of a recommendation for several processes."""
    variant = replace(item.variant, norm=norm)
    settings = replace(run.settings, variants=(variant,), processes=processes)
    plan = replace(item.plan, processes=processes)
    return snippet.render(
        replace(run, settings=settings), replace(item, variant=variant, plan=plan)
    )


@pytest.mark.nightly
def test_two_processes_train_as_one_does_with_twice_the_accumulation(
    run: Run, item: Recommendation, tmp_path: Path
) -> None:
    (tmp_path / "snippet.py").write_text(rendered(run, item, 2), encoding="utf-8")
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    started = torchrun("script.py", cwd=tmp_path)
    code, _, complaints = started.finish()
    # Gloo's threads rarely abort after the training is done.
    assert code == 0 or "terminate called without an active exception" in complaints, complaints
    assert len(list(tmp_path.glob("rank?.json"))) == 2, complaints
    losses, weights = trained(rendered(run, item, 1), accumulation=4)
    for rank in (0, 1):
        found = json.loads((tmp_path / f"rank{rank}.json").read_text(encoding="utf-8"))
        assert found == [pytest.approx(losses, rel=1e-4), pytest.approx(weights, rel=1e-4)]
    assert losses[-1] < losses[0]


def test_the_snippet_converts_norms_where_statistics_are_shared(
    run: Run, item: Recommendation
) -> None:
    converted = [
        "convert_sync_batchnorm(model)" in rendered(run, item, 2, norm)
        for norm in (Norm.BATCH, Norm.SYNC_BATCH)
    ]
    assert converted == [False, True]


@pytest.mark.parametrize("ddp", Ddp)
def test_the_snippet_gives_distributed_data_parallel_what_the_run_gave(
    run: Run, item: Recommendation, ddp: Ddp
) -> None:
    text = rendered(run, replace(item, plan=replace(item.plan, ddp=ddp)), 2)
    found = [each for each in ("find_unused_parameters=True", "static_graph=True") if each in text]
    assert found == list(ddp.arguments)
    compile(text, "snippet.py", "exec")
