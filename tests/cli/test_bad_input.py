"""Wrong input ends with an error in one line, a hint, and exit code 2."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from bsprobe.cli import COMMANDS
from bsprobe.cli import bsprobe as commands
from bsprobe.cli.command import _OTHERS
from bsprobe.cli.options.values import argument, number_within, wrote
from bsprobe.cli.wrapping import wrapped
from tests.support.commands import bsprobe, run

WRONG = """
$ bsprobe run --norm as-built
error: --norm as-built | deeplabv2-resnet101
hint: --norm batch

$ bsprobe run --base-lr 0.01
error: --base-lr | --base-batch
hint: --base-batch N

$ bsprobe run --model parts:net --batch-from parts:batch --validate 64x64
error: --validate | --batch-from parts:batch
hint: --validate

$ bsprobe run --validate 8x64x64
error: --validate 8x64x64 | 512x1024
hint: sides

$ bsprobe run --validate 20x64
error: 20x64
hint: 32x32

$ bsprobe run --validate 64x64 --validate-batch most
error: --validate-batch | 'most'
hint: 1 to 1048576 | max

$ bsprobe study --model torchvision:resnet18
error: study | torchvision:resnet18
hint: --model NAME | torchvision:fcn_resnet50

$ bsprobe run --input 3x64x96 --resolution 64x64
error: --input 64x96 | --resolution 64x64
hint: give one of the two

$ bsprobe run --input 512x1024
error: --input | '512x1024' | CHANNELSxHEIGHTxWIDTH
hint: 3x512x1024 | 1x96x96x96

$ bsprobe run --input 1x0x64x64
error: --input | 0 slices
hint: 1 to 32768

$ bsprobe run --input 0x64x64
error: --input | 0 channels
hint: 1 to 4096

$ bsprobe run --batch-from parts:batch --input 3x64x64
error: --input | --batch-from
hint: leave one of the two out

$ bsprobe run --batch-from parts:batch --data D
error: --data | --batch-from parts:batch
hint: --data | --batch-from

$ bsprobe run --input 4x64x64 --data D
error: --data | 3 channels | --input | 4
hint: leave one of the two out

$ bsprobe run --model-arg width
error: --model-arg | 'width' | NAME=VALUE
hint: width=64

$ bsprobe run --model-arg class=1
error: --model-arg | 'class' is a keyword
hint: width=64

$ bsprobe run --model-arg a=1 --model-arg a=2
error: --model-arg | a is given twice
hint: once

$ bsprobe run --model-arg num_classes=few
error: --model-arg num_classes=few
hint: 1 to 1048576 | --model-arg num_classes=19

$ bsprobe run --model-arg num_classes=true
error: --model-arg num_classes=true
hint: 1 to 1048576 | --model-arg num_classes=19

$ bsprobe run --loss pixel-crossentropy
error: --loss | 'pixel-crossentropy'
hint: pixel-cross-entropy? | image-cross-entropy | PACKAGE.MODULE:CALLABLE

$ bsprobe run --model torchvision:resnet18 --loss pixel-cross-entropy
error: --loss pixel-cross-entropy | torchvision:resnet18 | classif
hint: --loss | --model NAME | segmentation

$ bsprobe run --optimizer-from parts:adam --optimizer adamw
error: --optimizer | --optimizer-from parts:adam
hint: leave one of the two out

$ bsprobe run --optimizer-from adam
error: --optimizer-from | 'adam' | PACKAGE.MODULE:CALLABLE
hint: --optimizer-from training.parts:build | train.py:build

$ bsprobe run --loop outputs=kept,outputs=dropped
error: --loop | outputs is given twice
hint: once

$ bsprobe run --loop zero_grad=start
error: --loop | 'zero_grad'
hint: zero-grad | gradients | batch | outputs

$ bsprobe run --loop zero-grad=never
error: --loop | zero-grad | 'never'
hint: start | before-backward | end

$ bsprobe run --checkpoint-blocks down*
error: --checkpoint-blocks down* | checkpointing
hint: --checkpointing on

$ bsprobe run --checkpointing on --checkpoint-blocks ,
error: --checkpoint-blocks
hint: --checkpoint-blocks 'encoder.layer*'

$ bsprobe run --norm grup
error: --norm | 'grup'
hint: did you mean group? | batch, sync-batch, group, group-amp, instance, frozen, as-built

$ bsprobe run --processes 4
error: --processes 4 | torchrun | --gpu
hint: `torchrun --nproc-per-node 4 -m bsprobe run` | --gpu NAME

$ bsprobe run --gpu A10 --ddp static-graph
error: --ddp static-graph
hint: --ddp | torchrun | --gpu NAME --processes N

$ bsprobe run --norm sync-batch
error: --norm sync-batch
hint: torchrun --nproc-per-node N -m bsprobe run | --gpu NAME --processes N | --norm batch

$ bsprobe run --device cpu --memory-limit 2GiB,1GiB
error: --memory-limit | 2 limits | 1 process
hint: give one limit

$ bsprobe run --precision fp64
error: --precision | 'fp64'
hint: did you mean fp32? | fp32, amp-fp16, amp-bf16

$ bsprobe run --norm ,
error: --norm
hint: batch, sync-batch, group, group-amp, instance, frozen, as-built

$ bsprobe run --resolution 16x2048
error: 16x2048 | 16 pixels
hint: 32x32

$ bsprobe run --resolution 512x1000000
error: 512x1000000 | 1000000 pixels
hint: 32768 pixels

$ bsprobe run --resolution=-512x1024
error: '-512x1024'
hint: HEIGHTxWIDTH | 512x1024 | cityscapes, cityscapes-half

$ bsprobe run --memory-limit 0GiB
error: '0GiB'
hint: 11GiB

$ bsprobe run --headroom 1
error: --headroom | 1 is out of range
hint: 1e-06 to less than 1 | 1%?

$ bsprobe run --headroom 100%
error: --headroom | 100% is out of range
hint: 1e-06 to less than 1

$ bsprobe run --trial-timeout 5%
error: --trial-timeout | '5%'
hint: --trial-timeout 60

$ bsprobe run --input 512x768x3
error: --input | '512x768x3' | channels last
hint: --input 3x512x768

$ bsprobe run --resolution 512x768x4
error: --resolution | '512x768x4' | HEIGHTxWIDTH
hint: --resolution 512x768 | --input 4x512x768

$ bsprobe run --gpu custom --capacity 24GiB --compute-capability 86
error: --compute-capability | '86'
hint: did you mean 8.6? | 6.0, 6.1, 7.0, 7.5, 8.0, 8.6, 8.9, 9.0, 10.0, 12.0

$ bsprobe explain --gpu custom --capacity 24GiB --compute-capability sm_120
error: --compute-capability | 'sm_120'
hint: did you mean 12.0? | 6.0, 6.1

$ bsprobe run --gpu custom --capacity 24GiB --compute-capability 87
error: --compute-capability | '87'
hint: 8.6 | 6.0, 6.1

$ bsprobe run --base-lr nan
error: --base-lr | nan is out of range
hint: 1e-12 to 1e+06

$ bsprobe run --validate-batch 2
error: --validate-batch | --validate
hint: add --validate

$ bsprobe run --subset 5
error: --subset | --data
hint: add --data ROOT

$ bsprobe run --resume
error: no unfinished run | reports/
hint: --out

$ bsprobe report nowhere
error: nowhere does not exist
hint: run

$ bsprobe study --device=cpu
error: --data
hint: --data ROOT | `bsprobe sample-data DIR`

$ bsprobe study --batches=,
error: --batches
hint: --batches 2,4,8

$ bsprobe study --batches=2,0
error: --batches | '0'
hint: 1 to 1048576 | 2,4,8

$ bsprobe study --batches=2,x
error: --batches | 'x'
hint: 1 to 1048576 | 2,4,8

$ bsprobe study --batches=1048573,1048575
error: --batches | 1048573,1048575 | 2000000000
hint: 2,4,8

$ bsprobe run --memory-limit 99999999999GiB
error: '99999999999GiB'
hint: 1048576GiB

$ bsprobe run --resume --out nowhere
error: --resume | nowhere does not exist
hint: run without --resume

$ bsprobe run --resume --out .
error: --resume | . holds no run
hint: run without --resume

$ bsprobe study --resume
error: no unfinished study | reports/
hint: --out

$ bsprobe study --resume --out nowhere
error: --resume | nowhere does not exist
hint: study without --resume

$ bsprobe run --search=guided --device=cpu
error: --search guided | CPU
hint: --device cuda

$ bsprobe run --search=guided --device=cpu --dry-run
error: --search guided | CPU
hint: --device cuda

$ bsprobe run --search=guided --gpu='RTX 3090'
error: --search guided | GPU
hint: leave | out

$ bsprobe run --device cpu --model deeplab-resnet50
error: --model | 'deeplab-resnet50'
hint: did you mean deeplabv2-resnet50? | deeplabv2-mini | timm:NAME | PACKAGE.MODULE:NAME

$ bsprobe run --model resnet18
error: --model | 'resnet18'
hint: torchvision:resnet18?

$ bsprobe run --model torchvision:resnet19
error: --model | 'torchvision:resnet19'
hint: torchvision:resnet18? | 86 | torchvision:resnet152

$ bsprobe run --device cude:0
error: --device | 'cude:0'
hint: cpu, cuda or cuda:N

$ bsprobe study --data D --weights W
error: --weights | W does not exist
hint: path of a file

$ bsprobe run --gpu A10 --memory-limit 11
error: memory limit | 11 B | 275 MiB
hint: --memory-limit | 11GiB

$ bsprobe run --gpu A10 --dry-run --gpu A100
error: --gpu is given twice
hint: once

$ bsprobe study --out a --out b --out a
error: --out is given 3 times
hint: once

$ bsprobe run --norm batch --norm group
error: --norm is given twice
hint: once | --norm A,B

$ bsprobe compare nowhere nowhere
error: nowhere does not exist
hint: run

$ bsprobe compare nowhere nowhere --fail-on peek:3%
error: --fail-on | 'peek'
hint: did you mean peak? | peak-reserved

$ bsprobe compare nowhere nowhere --fail-on peak:3% --fail-on peak:1GiB
error: --fail-on | peak twice
hint: stricter
"""
"""Commands, with fragments of their errors and hints between bars; they write no files."""


@pytest.mark.parametrize(
    "case", WRONG.strip().split("\n\n"), ids=lambda case: case.partition("\n")[0]
)
def test_wrong_input_gets_a_line_and_a_hint(case: str, tmp_path: Path) -> None:
    command, *expected = case.removeprefix("$ bsprobe ").splitlines()
    done = bsprobe(*shlex.split(command), cwd=tmp_path)
    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout, len(lines)) == (2, "", 2)
    for line, facts in zip(lines, expected, strict=True):
        label, _, fragments = facts.partition(": ")
        assert line.startswith(f"{label}: ")
        assert [each for each in fragments.split(" | ") if each not in line] == [], line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    ["run --max-batch 0", "run --target-batch -3", "run --steps 2", "run --bogus", "bogus"],
)
def test_errors_of_click_have_the_same_form(arguments: str, tmp_path: Path) -> None:
    done = bsprobe(*arguments.split(), cwd=tmp_path)
    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout, len(lines)) == (2, "", 2)
    assert lines[0].startswith("error: ")
    assert lines[1].startswith("hint: see bsprobe")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("run --num-classes 21", "--model-arg num_classes=N"),
        ("explain --classes=21", "--model-arg num_classes=N"),
        ("run --batch-size 4", "--target-batch N or --max-batch N"),
        ("study --batch_size 4", "--batches LIST or --micro-batch N"),
        ("explain --batch-size 4", "--batch N or --max-batch N"),
        ("run --amp", "--precision amp-fp16"),
        ("study --FP16", "--precision amp-fp16"),
        ("run --image-size 512", "--resolution HEIGHTxWIDTH"),
        ("sample-data D --image-size 512", "--size HxW"),
        ("run --lr 0.1", "--base-lr RATE"),
        ("run --gpus 2", "--gpu NAME or --processes N"),
        ("run --max_batch 2", "--max-batch"),
    ],
)
def test_for_options_of_other_tools_the_hint_names_the_equivalent(
    typed: str, meant: str, tmp_path: Path
) -> None:
    done = bsprobe(*typed.split(), cwd=tmp_path)
    error, hint = done.stderr.splitlines()
    assert (done.returncode, done.stdout, hint) == (2, "", f"hint: give {meant}")
    option = typed.split()[-2 if " " in typed.partition("--")[2] else -1].partition("=")[0]
    assert option in error


def test_every_option_that_such_a_hint_names_exists() -> None:
    known = {
        name
        for name_of_command in COMMANDS
        if (command := commands.get_command(click.Context(commands), name_of_command))
        for parameter in command.params
        for name in parameter.opts
    }
    answers = [answer for each in _OTHERS.values() for answer in each]
    assert {answer.partition(" ")[0] for answer in answers} <= known
    assert {f"--{name}" for name in _OTHERS} & known <= {"--size", "--classes"}


def test_without_a_command_the_help_is_printed(tmp_path: Path) -> None:
    alone, asked = bsprobe(cwd=tmp_path), bsprobe("--help", cwd=tmp_path)
    assert (alone.returncode, alone.stdout, alone.stderr) == (0, asked.stdout, "")
    assert all(f"  {name}" in asked.stdout for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_fits_80_columns_and_has_no_arguments_of_python(
    command: str, tmp_path: Path
) -> None:
    done = bsprobe(command, "--help", cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr, lines[0][:6]) == (0, "", "Usage:")
    assert [line for line in lines if len(line) > 80] == []
    assert "Args:" not in done.stdout


HINT = "draw images: bsprobe sample-data 'a long folder' --size 512x1024; " + "or add --data " * 6


def test_a_terminal_gets_wrapped_lines_with_commands_unbroken() -> None:
    lines = wrapped("hint", HINT, 60).splitlines()
    assert lines[:2] == [
        "hint: draw images:",
        "      bsprobe sample-data 'a long folder' --size 512x1024",
    ]
    assert max(map(len, lines)) <= 60
    assert all(line.startswith("      ") for line in lines[1:])
    assert " ".join(" ".join(lines).split()) == f"hint: {HINT.replace(';', '').strip()}"
    assert wrapped("hint", "run `bsprobe gpus` now" * 5, 200).splitlines()[1] == (
        "      bsprobe gpus"
    )
    assert wrapped("hint", "run `bsprobe gpus`", 80) == "hint: run `bsprobe gpus`"


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_on_a_terminal_a_long_hint_is_wrapped_and_in_a_pipe_it_is_one_line() -> None:
    words = (sys.executable, "-m", "bsprobe", "run", "--norm", "grup")
    piped = run(*words)
    read, write = os.openpty()
    done = subprocess.run(words, stderr=write, check=False, env={**os.environ, "COLUMNS": "80"})
    os.close(write)
    shown = os.read(read, 10_000).decode().splitlines()
    os.close(read)
    assert (done.returncode, piped.returncode, len(piped.stderr.splitlines())) == (2, 2, 2)
    assert len(shown) == 3
    assert max(map(len, shown)) <= 80
    assert " ".join(" ".join(shown).split()) == " ".join(piped.stderr.split())


@pytest.mark.parametrize(
    ("held", "is_unfinished"),
    [
        (["notes.txt"], False),
        (["journal.jsonl"], True),
        (["journal.jsonl", "run.json"], False),
    ],
)
def test_a_folder_that_is_not_empty_is_refused_and_resume_named_for_an_unfinished_run(
    held: list[str], tmp_path: Path, *, is_unfinished: bool
) -> None:
    (tmp_path / "full").mkdir()
    for name in held:
        (tmp_path / "full" / name).write_text("mine")
    done = bsprobe("run", "--device", "cpu", "--out", "full", cwd=tmp_path)
    error, hint = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert "--out full" in error
    assert "another --out" in hint
    assert ("--resume" in hint) is is_unfinished
    assert {path.read_text() for path in (tmp_path / "full").iterdir()} == {"mine"}


@pytest.mark.nightly
def test_a_run_that_is_refused_before_its_first_trial_leaves_its_folder_empty(
    tmp_path: Path,
) -> None:
    (tmp_path / "few.py").write_text("from torch import nn\ndef net(): return nn.Conv2d(3, 5, 1)\n")
    done = bsprobe(
        *("run", "--gpu=RTX 3090", "--model=few.py:net", "--resolution=64x64"),
        *("--model-arg=num_classes=19", "--precision=fp32", "--out=out"),
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout) == (2, "")
    error = done.stderr.splitlines()[-2]
    assert error.startswith("error: ")
    assert ("5 logits" in error, "19 classes" in error) == (True, True)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    done = bsprobe("run", "--device", "cpu", "--out", "file/inside", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: file/inside: Not a directory\nhint: ")


LONG = "x" * 100_000


@pytest.mark.parametrize(
    "typed",
    [
        *(["run", "--model", LONG], ["run", "--model", f"{LONG}.py"], ["run", f"--{LONG}"]),
        *(["run", "--model", f"{LONG}.py:{LONG}"], ["run", "--norm", "x " * 50_000], [LONG]),
        *(["run", "--steps", LONG], ["run", "--resume", "--out", LONG], ["report", LONG]),
        *(["run", "--data", LONG], ["data", LONG], ["run", "--gpu=A10", "--out", LONG]),
        ["study", "--data=D", "--weights", LONG],
    ],
    ids=lambda typed: " ".join(word[:9] for word in typed),
)
def test_a_long_value_is_shortened_in_the_middle(typed: list[str], tmp_path: Path) -> None:
    done = bsprobe(*typed, cwd=tmp_path)
    error, hint = done.stderr.splitlines()
    assert (done.returncode, error[:7], hint[:6]) == (2, "error: ", "hint: ")
    assert 200 < len(error) < 700
    assert "…" in error
    assert "make room" not in hint


def test_the_next_command_quotes_the_name_of_a_folder(tmp_path: Path) -> None:
    done = bsprobe("sample-data", "A ü", "--images=5", "--size=32x64", cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "Next: bsprobe data 'A ü'"
    assert wrote(Path("B &"), "report.md") == "Wrote B &/\nNext: read 'B &/report.md'"


def test_the_name_of_an_argument_is_read_as_python_reads_it() -> None:
    decomposed = "gro\N{COMBINING DIAERESIS}ße"
    assert argument(f"{decomposed} =C:\\new") == ("größe", "C:\\new")


def test_a_share_may_be_given_in_percent() -> None:
    parse = number_within("--headroom", "headroom")
    assert (parse("5%"), parse("0.05"), parse(0.05)) == (0.05, 0.05, 0.05)


def test_a_folder_without_images_is_refused_by_name(tmp_path: Path) -> None:
    done = bsprobe("run", "--device", "cpu", "--data", ".", cwd=tmp_path)
    first, second = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert first.startswith(f"error: {tmp_path}")
    assert second.startswith("hint: ")


@pytest.mark.parametrize("rank", ["0", "1"])
def test_an_error_under_torchrun_is_printed_by_rank_0_only(
    rank: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = {
        "TORCHELASTIC_RUN_ID": "a",
        "RANK": rank,
        "WORLD_SIZE": "2",
        "LOCAL_RANK": rank,
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_PORT": "1",
    }
    for name, value in started.items():
        monkeypatch.setenv(name, value)
    wrong = {
        "study": ("bsprobe study", "torchrun"),
        "run --gpu H100": ("--gpu", "torchrun"),
        "run --processes 3": ("--processes 3", "torchrun", "2"),
        "run --device cuda:1": ("--device cuda:1", "torchrun"),
        "run --device cpu": ("--device cpu", "--memory-limit"),
        "run --device cpu --norm sync-batch": ("--norm sync-batch", "GPU"),
        "run --device cpu --memory-limit 1GiB,2GiB,1GiB": (
            "--memory-limit",
            "3 limits",
            "2 processes",
        ),
    }
    for arguments, facts in wrong.items():
        done = bsprobe(*arguments.split(), cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        if rank == "1":
            assert done.stderr == ""
        else:
            assert [fact for fact in facts if fact not in done.stderr.splitlines()[0]] == []


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_closes_the_pipe_early_is_no_error(tmp_path: Path, unbuffered: str) -> None:
    command = f"{sys.executable} -m bsprobe gpus | head -1; echo ${{PIPESTATUS[0]}}"
    done = run("/bin/bash", "-c", command, cwd=tmp_path, PYTHONUNBUFFERED=unbuffered)
    assert done.stdout.splitlines()[1:] == ["0"]
    assert done.stderr == ""


BUGGY = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 19, 1)
        self.second = nn.Linear(5, 5)

    def forward(self, images):
        return self.second(self.first(images))
"""


def test_a_run_without_a_variant_that_ran_exits_with_2_and_its_report_has_the_tracebacks(
    tmp_path: Path,
) -> None:
    (tmp_path / "buggy.py").write_text(BUGGY)
    done = bsprobe(
        *("run", "--gpu=RTX 3090", "--model=buggy.py:Net", "--resolution=64x64"),
        *("--norm=batch", "--precision=fp32", "--out=out"),
        cwd=tmp_path,
    )
    assert done.returncode == 2
    error, hint = done.stderr.splitlines()[-2:]
    assert error.startswith("error: every variant failed")
    assert "out/report.md" in hint
    report = (tmp_path / "out" / "report.md").read_text()
    assert 'File "buggy.py", line 11, in forward' in report
    assert (tmp_path / "out" / "run.json").exists()
