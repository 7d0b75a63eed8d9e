"""The snippet for several processes, started by torchrun, trains like one process."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bsprobe.records.runs import Recommendation, Run
from bsprobe.records.trials import Ddp
from bsprobe.records.variants import Norm
from bsprobe.records.workload import NOTHING_OWN, OwnParts
from bsprobe.report.snippet import snippet
from tests.support.snippet_networks import of_pixels
from tests.support.snippet_training import trained
from tests.support.torchrun import torchrun

SCRIPT = """\
import json, sys
from pathlib import Path
from tests.support.snippet_networks import of_pixels
from tests.support.snippet_training import trained
own = [of_pixels] if "own" in sys.argv else []
losses, weights = trained(Path("snippet.py").read_text(), 2, *own)
import torch.distributed as dist
Path(f"rank{dist.get_rank()}.json").write_text(json.dumps([losses, weights]))
dist.barrier()
dist.destroy_process_group()
"""


def rendered(run: Run, item: Recommendation, processes: int, **changes: Any) -> str:
    """Return the snippet of a recommendation for several processes."""
    variant = replace(item.variant, **changes)
    settings = replace(run.settings, variants=(variant,), processes=processes)
    plan = replace(item.plan, processes=processes)
    return snippet.render(
        replace(run, settings=settings), replace(item, variant=variant, plan=plan)
    )


@pytest.mark.nightly
@pytest.mark.parametrize("loss", [None, of_pixels], ids=["bsprobe", "own"])
def test_two_processes_train_as_one_does_with_twice_the_accumulation(
    run: Run, item: Recommendation, tmp_path: Path, loss: Any
) -> None:
    own = NOTHING_OWN if loss is None else OwnParts(loss="m:loss")
    (tmp_path / "snippet.py").write_text(rendered(run, item, 2, own=own), encoding="utf-8")
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    started = torchrun("script.py", "bsprobe" if loss is None else "own", cwd=tmp_path)
    code, _, complaints = started.finish()
    # Gloo's threads rarely abort after the training is done.
    assert code == 0 or "terminate called without an active exception" in complaints, complaints
    assert len(list(tmp_path.glob("rank?.json"))) == 2, complaints
    given = () if loss is None else (loss,)
    losses, weights = trained(rendered(run, item, 1, own=own), 4, *given)
    for rank in (0, 1):
        found = json.loads((tmp_path / f"rank{rank}.json").read_text(encoding="utf-8"))
        assert found == [pytest.approx(losses, rel=1e-4), pytest.approx(weights, rel=1e-4)]
    assert losses[-1] < losses[0]


def test_the_snippet_converts_norms_where_statistics_are_shared(
    run: Run, item: Recommendation
) -> None:
    converted = [
        "convert_sync_batchnorm(model)" in rendered(run, item, 2, norm=norm)
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
