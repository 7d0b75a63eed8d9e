"""The Python API: the records of the command line, and errors for invalid workloads."""

import functools
import math
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import bsprobe
from bsprobe.cli.options.subject import variants_from
from bsprobe.engine.workload import Options, settings_for
from bsprobe.records.bounds import ASKED
from bsprobe.records.errors import DeviceError, UsageError
from bsprobe.records.habits import Habits, Outputs
from bsprobe.records.runs import DeviceRequest
from bsprobe.records.trials import Source
from bsprobe.records.variants import AXES, Norm, Precision, Variant
from bsprobe.records.workload import OwnParts, name_of
from bsprobe.storage.checks import check_figures
from bsprobe.storage.codec import from_json, to_json
from bsprobe.storage.journal import Header
from bsprobe.storage.runfile import load_run
from tests.support import commands, own_training
from tests.support.builders import header

WORKLOAD = bsprobe.Workload(
    model=own_training.network,
    optimizer=own_training.adam,
    batch=own_training.batch,
    loss=own_training.loss,
)


def replaced() -> nn.Module:
    return own_training.network()


ORIGINAL = replaced


def replaced() -> nn.Module:  # type: ignore[no-redef]
    return own_training.network()


NUMBERS = {
    "memory_limit": "memory_limit_bytes",
    "max_batch": "max_batch",
    "steps": "measured_steps",
    "warmup_steps": "warmup_steps",
    "trial_timeout": "trial_timeout_seconds",
    "time_limit": "time_limit_seconds",
    "seed": "seed",
    "target.batch": "batch",
    "target.base_batch": "base_batch",
    "target.base_learning_rate": "base_learning_rate",
    "target.base_updates": "base_updates",
    "target.headroom": "headroom",
}
"""Numeric options of the API, and the fields that hold them."""


def with_number(option: str, number: Any) -> Options:
    """Return options with one number set."""
    name, _, field = option.partition(".")
    fields: dict[str, Any] = {"base_batch": 8} if field == "base_learning_rate" else {}
    given: Any = {name: bsprobe.Target(**fields | {field: number}) if field else number}
    options: Options = given
    return options


def test_the_package_has_every_public_name_and_no_other() -> None:
    assert [getattr(bsprobe, name).__name__ for name in bsprobe.__all__] == list(bsprobe.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'prob'"):
        _ = bsprobe.prob


def test_a_workload_makes_the_settings_of_the_command_line() -> None:
    settings = settings_for(
        WORKLOAD,
        DeviceRequest(device="cpu"),
        {
            "norm": "batch,group",
            "memory_limit": "100MiB",
            "max_batch": 7,
            "loop": "outputs=dropped",
        },
    )

    typed = {
        "models": ("tests.support.own_training:network",),
        "model_args": (),
        "resolutions": None,
        "input_size": None,
        "batches_seen": None,
        "loss": "tests.support.own_training:loss",
        "optimizer_from": "tests.support.own_training:adam",
        "batch_from": "tests.support.own_training:batch",
        "habits": Habits(outputs=Outputs.DROPPED),
        "checkpoint_blocks": None,
        **{axis.field: axis.defaults[:1] for axis in AXES},
        "norm": (Norm.BATCH, Norm.GROUP),
    }
    assert settings.variants == variants_from(typed)
    assert settings.device == DeviceRequest(device="cpu", memory_limit_bytes=100 * 2**20)
    assert settings.max_batch == 7


def test_a_class_and_a_function_of_pytorch_can_be_parts() -> None:
    mean_squared = torch.nn.functional.mse_loss
    workload = replace(WORKLOAD, model=own_training.Named, loss=mean_squared)

    (variant,) = settings_for(workload, DeviceRequest(), {}).variants

    assert variant == Variant(
        model="tests.support.own_training:Named",
        resolution=None,
        norm=Norm.AS_BUILT,
        own=OwnParts(
            loss="torch.nn.functional:mse_loss",
            optimizer="tests.support.own_training:adam",
            batches="tests.support.own_training:batch",
        ),
    )


def test_a_traceback_ends_with_the_hint() -> None:
    with pytest.raises(UsageError) as caught:
        bsprobe.recommend(WORKLOAD, gpu="RTX 3900")
    shown = "".join(traceback.format_exception(caught.value)).splitlines()
    assert shown[-2] == "bsprobe.records.errors.UsageError: --gpu: 'RTX 3900' is unknown"
    assert shown[-1].startswith("hint: did you mean RTX 3090?")


def test_a_model_that_cannot_be_imported_by_name_is_refused_with_a_hint() -> None:
    def local() -> nn.Module:
        return own_training.network()

    refused = {
        "<locals>.local is local": local,
        "<locals>.<lambda> is a lambda": lambda: own_training.network(),  # noqa: PLW0108 - on purpose
        "partial": functools.partial(own_training.network),
        f"{__name__}.*replaced": ORIGINAL,
    }
    for why, model in refused.items():
        with pytest.raises(UsageError, match=f"^model: .*{why}") as caught:
            name_of(model, "model")
        assert "top level of a module" in str(caught.value.hint)


def test_an_option_or_a_loss_that_does_not_exist_is_refused() -> None:
    with pytest.raises(TypeError, match=r"'max_btach'.* memory_limit, precision"):
        bsprobe.predict(WORKLOAD, gpu="RTX 3090", max_btach=4)  # type: ignore[call-arg] # as a slip would
    with pytest.raises(UsageError, match="--precision: 'fp64' is unknown"):
        bsprobe.predict(WORKLOAD, gpu="RTX 3090", precision="fp64")
    with pytest.raises(UsageError, match=r"settings\.max_batch: 0 is out of range"):
        bsprobe.predict(WORKLOAD, gpu="RTX 3090", max_batch=0)
    with pytest.raises(UsageError, match=r"settings\.target\.batch: 0 is out of range"):
        bsprobe.predict(WORKLOAD, gpu="RTX 3090", target=bsprobe.Target(batch=0))
    with pytest.raises(UsageError, match="loss: 'mse' is unknown"):
        bsprobe.predict(replace(WORKLOAD, loss="mse"), gpu="RTX 3090")
    with pytest.raises(UsageError, match="gpu and device"):
        bsprobe.recommend(WORKLOAD, gpu="RTX 3090", device="cpu")


@pytest.mark.parametrize("option", NUMBERS)
@pytest.mark.parametrize(
    "number", [-1, math.nan, math.inf, 1e308, 10**23, 10**400, True, [4], 2**50 + 0.5]
)
def test_a_number_that_is_out_of_range_is_refused(option: str, number: Any) -> None:
    with pytest.raises(UsageError, match=rf"settings\.[a-z_.]*{NUMBERS[option]}: ") as caught:
        settings_for(WORKLOAD, DeviceRequest(), with_number(option, number))
    assert caught.value.hint == "see bsprobe.api.Options"


@pytest.mark.parametrize("option", NUMBERS)
def test_the_range_of_each_number_is_that_of_the_command_line(
    option: str,
) -> None:
    bounds = ASKED[NUMBERS[option]]
    most = math.nextafter(bounds.most, 0) if bounds.most_is_open else bounds.most
    for number in (bounds.least, most):
        settings = settings_for(WORKLOAD, DeviceRequest(), with_number(option, number))
        check_figures(header(settings))
        assert from_json(Header, to_json(header(settings))) == header(settings)
    step = 1 if isinstance(bounds.least, int) else bounds.least / 2
    for number in (bounds.least - step, bounds.most + step * 2**80):
        with pytest.raises(UsageError):
            settings_for(WORKLOAD, DeviceRequest(), with_number(option, number))


def test_a_rule_for_the_learning_rate_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match="lr_rule: 'lineal' is unknown") as caught:
        bsprobe.predict(WORKLOAD, gpu="RTX 3090", target=bsprobe.Target(lr_rule="lineal"))
    assert str(caught.value.hint).startswith("did you mean linear?")


def test_a_prediction_is_a_run_and_uses_the_optimizer(tmp_path: Path) -> None:
    run = bsprobe.predict(WORKLOAD, gpu="RTX 3090", max_batch=8, out=tmp_path / "out")

    assert load_run(tmp_path / "out") == run
    assert run.device.source is Source.PREDICTED
    assert {trial.spec.variant.precision for trial in run.trials} == {Precision.FP32}
    assert run.best is not None
    assert run.best.largest == 8
    plan = run.best.plan
    assert (plan.micro_batch, plan.accumulation_steps) == (run.best.safe, 1)
    assert (plan.learning_rate, plan.group_learning_rates) == (None, ())
    assert plan.rate_formula == f"lr * ({run.best.safe} / your batch)"
    assert any("linear rule" in sentence for sentence in run.best.caveats)


def test_an_invalid_part_is_an_error_not_a_small_batch() -> None:
    wrong = replace(WORKLOAD, optimizer=own_training.no_optimizer)
    with pytest.raises(DeviceError, match=r"no_optimizer: .* str"):
        bsprobe.predict(wrong, gpu="RTX 3090", max_batch=2)


SCRIPT = """
import bsprobe
import torch


def model():
    return torch.nn.Conv2d(3, 2, 1)


def optimizer(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


def batch(size):
    return torch.zeros(size, 3, 32, 32), torch.zeros(size, 32, 32, dtype=torch.int64)


WORKLOAD = bsprobe.Workload(model=model, optimizer=optimizer, batch=batch)
"""
GO = """
{guard}
    run = bsprobe.predict(WORKLOAD, gpu="RTX 3090", max_batch=2)
    print(run.settings.variants[0].subject, run.results[0].boundary.largest)
"""


@pytest.mark.nightly
def test_a_script_can_pass_functions_that_it_defines(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT + GO.format(guard='if __name__ == "__main__":'))

    done = commands.python("train.py", cwd=tmp_path)

    assert (done.stdout, done.returncode) == ("train.py:model on train.py:batch 2\n", 0), done


@pytest.mark.nightly
def test_a_script_without_a_guard_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT + GO.format(guard="if True:"))

    done = commands.python("train.py", cwd=tmp_path)

    assert done.returncode == 1
    assert "the script calls bsprobe when it is imported" in done.stderr


@pytest.mark.nightly
def test_functions_from_standard_input_cannot_be_probed(tmp_path: Path) -> None:
    done = commands.python("-", cwd=tmp_path, text=SCRIPT + GO.format(guard="if True:"))

    assert "is not defined in a file" in done.stderr
