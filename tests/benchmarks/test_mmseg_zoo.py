"""The rows of mmsegmentation's model zoo, their scores, and a step of one of its networks."""

from typing import Any

import pytest
import torch

from benchmarks import mmseg_zoo_rows
from benchmarks.mmseg_scores import TABLES, Scorer
from benchmarks.published_data import rows_of
from bsprobe.simulate.cudnn.workspace import Workspaces
from tests.support.optional_packages import is_there

needs_mmseg = pytest.mark.skipif(
    not (is_there("mmseg") and is_there("mmcv")), reason="mmsegmentation is not installed"
)
FCN = "configs/fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py"


def entry(**changed: Any) -> dict[str, Any]:
    metadata = {
        "Batch Size": 8,
        "Training Resources": "4x V100 GPUS",
        "Memory (GB)": 5.7,
        **changed.pop("metadata", {}),
    }
    weights = "https://x/fcn_r50-d8_512x1024_40k_cityscapes_20200604_192608-efe53f0d.pth"
    return {"Config": FCN, "Weights": weights, "Metadata": metadata, **changed}


def test_a_row_has_the_images_of_one_gpu_and_the_day_of_the_weights() -> None:
    assert mmseg_zoo_rows.row_of(entry()) == {
        "config": FCN,
        "images_per_gpu": "2",
        "mem_gb": "5.7",
        "amp": "no",
        "known": "no",
        "card": "V100",
        "trained": "20200604",
    }


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"metadata": {"Memory (GB)": 3826.0}}, "3826.0 cannot be GB"),
        ({"metadata": {"Training Resources": "8x 42.20 GPUS"}}, "'42.20'"),
        ({"metadata": {"Batch Size": 16}}, "its name says 2 images a GPU, the entry 4"),
    ],
)
def test_an_entry_that_contradicts_itself_is_left_out(changed: Any, reason: str) -> None:
    with pytest.raises(mmseg_zoo_rows.LeftOutError, match=reason):
        mmseg_zoo_rows.row_of(entry(**changed))


def test_entries_of_one_configuration_with_two_figures_are_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = entry(metadata={"Memory (GB)": 9.8})
    without = entry(metadata={"Memory (GB)": None})
    assert list(mmseg_zoo_rows.measured([entry(), other, without])) == []
    assert capsys.readouterr().out.count("2 entries") == 2
    assert len(list(mmseg_zoo_rows.measured([entry(), without]))) == 1


def test_no_row_stands_in_both_tables() -> None:
    rows = [row for table in TABLES for row in rows_of(table)]
    configs = {row["config"] for row in rows}
    assert len(rows) == len(configs)
    assert {row["known"] for row in rows_of(TABLES[0])} == {"yes"}
    known = [row["config"] for row in rows_of(TABLES[1]) if row["known"] == "yes"]
    assert len(known) == 34
    parts = mmseg_zoo_rows.KNOWN
    assert all(any(part in config for config in known) for part in parts)
    assert all(any(part in config for part in parts) for config in known)
    assert all(list(row) == list(mmseg_zoo_rows.COLUMNS) for row in rows)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"card": "TITAN Xp"}, "measured on a TITAN Xp"),
        ({"amp": "yes", "trained": "20200717"}, "mixed precision before autocast"),
        ({"config": "configs/pidnet/a.py"}, "needs edge maps, which its loader makes"),
    ],
)
def test_a_row_that_cannot_be_predicted_says_why(changed: dict[str, str], reason: str) -> None:
    row = mmseg_zoo_rows.row_of(entry()) | changed
    with Workspaces((7, 0), allow_tf32=False) as workspaces:
        found = Scorer({"V100": workspaces}).scored(row)
    assert (found.left_out, found.predicted_bytes) == (reason, None)


@needs_mmseg
def test_the_step_of_a_configuration_is_traced_with_its_own_loss_and_optimizer() -> None:
    from benchmarks.mmseg_zoo import (  # noqa: PLC0415 - needs mmsegmentation
        MMCV,
        ZooTracer,
        training_of,
    )

    training = training_of(FCN)
    assert (training.crop.height, training.crop.width) == (512, 1024)
    tracer = ZooTracer(training, MMCV)
    tracer.record(2)
    assert tracer.facts.parameters == 49_497_734
    optimizer = tracer._optimizer()
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.defaults["weight_decay"] == 0.0005
