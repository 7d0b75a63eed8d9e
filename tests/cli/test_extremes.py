"""Every accepted number can be written to a file; any other is refused by the option."""

import dataclasses
import json
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click
import pytest

from bsprobe.cli import bsprobe as commands
from bsprobe.cli.options.device import asked_gpu
from bsprobe.cli.options.run import settings_from
from bsprobe.cli.options.study import study_settings_from
from bsprobe.cli.options.subject import variants_from
from bsprobe.records.bounds import ASKED
from bsprobe.records.gpus import custom_gpu
from bsprobe.records.runs import DeviceRequest
from bsprobe.records.trials import TrialSpec
from bsprobe.records.units import parse_resolution
from bsprobe.storage.checks import check_figures
from bsprobe.storage.codec import from_json, to_json
from tests.support.builders import header
from tests.support.commands import bsprobe
from tests.support.study_builders import study_header

if TYPE_CHECKING:
    from bsprobe.analysis.thresholds import Threshold


@dataclasses.dataclass(frozen=True, kw_only=True)
class Number:
    """An option of a command that takes a number."""

    command: str
    option: str
    field: str
    form: str = "{}"
    """The value of the option, with braces for the number."""
    besides: tuple[str, ...] = ()
    """Options that it requires."""
    least: float | None = None
    """The least accepted number if it differs from the field's."""
    unit: float = 1
    """The typed number for a field value of 1."""

    @property
    def is_whole(self) -> bool:
        return isinstance(ASKED[self.field].least, int) and self.field not in ("share", "headroom")

    def words(self, number: object) -> list[str]:
        option = f"{self.option}={self.form.format(number)}"
        return [*self.besides, option, *BEHIND.get(self.option, ())]

    def __str__(self) -> str:
        return f"{self.command} {self.option} {self.form}".removesuffix(" {}")


OUTSIDE = custom_gpu(2**35, "8.6").outside_allocator_bytes
CUSTOM = ("--gpu=custom", "--compute-capability=8.6")
RUN = {
    "--processes": "processes",
    "--target-batch": "batch",
    "--base-lr": "base_learning_rate",
    "--base-batch": "base_batch",
    "--base-updates": "base_updates",
    "--headroom": "headroom",
    "--max-batch": "max_batch",
    "--batch-multiple": "batch_multiple",
    "--seconds": "seconds",
    "--steps": "measured_steps",
    "--warmup-steps": "warmup_steps",
    "--subset": "subset",
    "--trial-timeout": "trial_timeout_seconds",
    "--time-limit": "time_limit_seconds",
    "--seed": "seed",
    "--memory-limit": "memory_limit_bytes",
}
STUDY = {
    "--batches": "batches",
    "--seeds": "seed_count",
    "--images": "images",
    "--validations": "validations",
    "--micro-batch": "micro_batch",
    "--base-lr": "base_learning_rate",
    "--base-batch": "base_batch",
    "--subset": "subset",
    "--workers": "workers",
    "--training-timeout": "training_timeout_seconds",
    "--seed": "seed",
    "--memory-limit": "memory_limit_bytes",
}
EXPLAIN = {
    "--batch": "batch_size",
    "--depth": "depth",
    "--max-batch": "max_batch",
    "--trial-timeout": "trial_timeout_seconds",
    "--memory-limit": "memory_limit_bytes",
}
NEEDED = {
    "--processes": ("--gpu=RTX 3090",),
    "--subset": ("--data=.",),
    "--base-lr": ("--base-batch=8",),
    "--batch-multiple": ("--max-batch=1048576",),
}
BEHIND = {"--seconds": ("--", "python", "train.py", "{batch}")}
"""Words that an option requires at the end."""
REQUIRED = {"compare": ("a", "b"), "ci": ("--baseline=a",), "sample-data": ("d",)}
TEXTS = frozenset(
    {
        *("--model", "--loss", "--optimizer-from", "--batch-from", "--device", "--gpu"),
        *("--compute-capability", "--precision", "--norm", "--checkpointing", "--memory-format"),
        *("--optimizer", "--cudnn-benchmark", "--loss-at", "--ddp", "--loop"),
        "--checkpoint-blocks",
    }
)
"""Options that take no number; the compute capability is a choice."""


def numbers() -> Iterator[Number]:
    for option, field in RUN.items():
        yield Number(command="run", option=option, field=field, besides=NEEDED.get(option, ()))
    for option, field in STUDY.items():
        besides = NEEDED.get(option, ()) if option == "--base-lr" else ()
        yield Number(command="study", option=option, field=field, besides=besides)
    for option, field in EXPLAIN.items():
        yield Number(command="explain", option=option, field=field)
    for command in ("run", "explain"):
        yield Number(
            command=command,
            option="--capacity",
            field="total_bytes",
            besides=CUSTOM,
            least=OUTSIDE + 1,
        )
    for command in ("run", "explain", "gpus"):
        fit = ("--fit",) if command == "gpus" else ()
        own = ("--batch-from=parts:batch", *fit)
        yield Number(command=command, option="--batches-seen", field="batches_seen", besides=own)
        for option, form, field in (
            ("--resolution", "{}x64", "height"),
            ("--resolution", "64x{}", "width"),
            ("--input", "{}x64x64", "channels"),
            ("--input", "3x{}x64", "height"),
            ("--model-arg", "num_classes={}", "classes"),
        ):
            yield Number(command=command, option=option, form=form, field=field, besides=fit)
    yield Number(command="gpus", option="--batch", field="wanted_batch", besides=("--fit",))
    yield Number(command="study", option="--resolution", form="{}x64", field="height")
    yield Number(command="run", option="--validate", form="{}x64", field="height")
    validate = ("--validate=64x64",)
    yield Number(command="run", option="--validate-batch", field="batch_size", besides=validate)
    yield Number(command="run", option="--evaluate-at", form="{}x64", field="height")
    yield Number(command="sample-data", option="--images", field="sample_images")
    yield Number(command="sample-data", option="--seed", field="seed")
    yield Number(command="sample-data", option="--size", form="{}x64", field="height")
    for command in ("compare", "ci"):
        for metric, field, unit in (
            ("peak:{}%", "share", 100),
            ("throughput:{}", "absolute", 1),
            ("peak:{}B", "absolute", 1),
        ):
            yield Number(command=command, option="--fail-on", form=metric, field=field, unit=unit)


NUMBERS = tuple(numbers())


def parsed(number: Number, value: object) -> dict[str, Any]:
    """The parameters of a command with the number."""
    command = commands.get_command(click.Context(commands), number.command)
    assert command is not None
    words = [*REQUIRED.get(number.command, ()), *number.words(value)]
    return command.make_context(number.command, words).params


def records(command: str, given: dict[str, Any]) -> list[Any]:
    """The records that a command writes or sends to its worker."""
    if command == "run":
        return [header(settings_from(given))]
    if command == "study":
        return [study_header(study_settings_from(given))]
    if command == "explain":
        gpu = asked_gpu({**given, "data_root": None})
        (variant,) = variants_from(given)
        batch = given["batch"] or given["max_batch"]
        return [
            DeviceRequest(gpu=gpu, memory_limit_bytes=given["memory_limit"]),
            TrialSpec(variant=variant, batch_size=batch),
        ]
    if command == "gpus":
        batch = given["batch"] or 1
        return [TrialSpec(variant=each, batch_size=batch) for each in variants_from(given)]
    if command == "sample-data":
        return [parse_resolution(given["size"])]
    thresholds: tuple[Threshold, ...] = given["thresholds"]
    return list(thresholds)


def extremes(number: Number) -> tuple[float, float]:
    """The least and the greatest number that is accepted."""
    bounds = ASKED[number.field]
    most: float = bounds.most
    if bounds.most_is_open:
        most = bounds.most - 1 if number.is_whole else math.nextafter(bounds.most, 0)
    return bounds.least if number.least is None else number.least, most


@pytest.mark.parametrize("number", NUMBERS, ids=str)
def test_the_least_and_the_greatest_number_survive_a_file(number: Number) -> None:
    for extreme in extremes(number):
        made = records(number.command, parsed(number, extreme * number.unit))
        assert made
        for record in made:
            check_figures(record)
            text = json.dumps(to_json(record), allow_nan=False)
            assert from_json(type(record), json.loads(text)) == record


FRACTIONS = ("absolute", "memory_limit_bytes", "total_bytes")
"""Fields that accept a fraction: 1.5GiB."""
NEVER = ("-1", "nan", "inf", "1e308", "1" * 23, "9" * 400, "9" * 5000, "", "few", "true")


def beyond(number: Number) -> Iterator[object]:
    """Numbers just out of bounds, and text that no option accepts."""
    yield from NEVER
    least, most = extremes(number)
    if number.is_whole:
        yield from (int(least) - 1, int(most) + 1)
        if number.field not in FRACTIONS:
            yield least + 0.5
    else:
        yield from (math.nextafter(least * number.unit, -math.inf), most * number.unit * 1.000001)
    if number.field not in ("share", "absolute"):
        yield "5e-324"
    if 0 not in ASKED[number.field]:
        yield 0


@pytest.mark.parametrize("number", NUMBERS, ids=str)
def test_a_number_out_of_bounds_is_refused_with_a_hint(
    number: Number, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("refused")
    for value in beyond(number):
        words = [*REQUIRED.get(number.command, ()), *number.words(value)]
        done = bsprobe(number.command, *words, cwd=place)
        lines = done.stderr.splitlines()
        assert (done.returncode, done.stdout, len(lines)) == (2, "", 2), (value, done)
        assert lines[0].startswith("error: "), value
        assert str(value)[:90] in lines[0] or number.option in lines[0]  # long ones are shortened
        assert lines[1].startswith("hint: "), value
    assert list(place.iterdir()) == []


def test_every_option_that_takes_a_number_is_tried() -> None:
    tried = {(number.command, number.option) for number in NUMBERS}
    context = click.Context(commands)
    for name in commands.list_commands(context):
        command = commands.get_command(context, name)
        assert command is not None
        for parameter in command.params:
            is_text = isinstance(
                parameter.type, click.Choice | click.Path | click.types.BoolParamType
            )
            if isinstance(parameter, click.Option) and not is_text:
                option = parameter.opts[0]
                assert (option in TEXTS) is not ((name, option) in tried), (name, option)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "1e308", "", "few", "9" * 5000])
def test_an_invalid_compute_capability_is_refused(value: str) -> None:
    done = bsprobe("run", "--gpu=custom", "--capacity=20GiB", f"--compute-capability={value}")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --compute-capability: ")


def test_a_study_has_a_learning_rate_for_any_network() -> None:
    command = commands.get_command(click.Context(commands), "study")
    assert command is not None
    given = command.make_context("study", ["--model=torchvision:fcn_resnet50"]).params
    target = study_settings_from(given).target
    assert (target.base_learning_rate, target.base_batch) == (2.5e-4, 10)
