"""Whatever is typed wrong gets one clear line, a hint, and exit code 2."""

import shlex
import sys
from pathlib import Path

import click
import pytest

from bsprobe.cli import COMMANDS
from bsprobe.cli import bsprobe as commands
from bsprobe.cli.command import _OTHERS
from bsprobe.cli.options.values import number_within, wrote
from tests.support.commands import bsprobe, run

WRONG = """
$ bsprobe run --norm as-built
error: --norm as-built: deeplabv2-resnet101 is built with the norm that is asked for
hint: its own is --norm batch

$ bsprobe run --base-lr 0.01
error: --base-lr needs --base-batch: a learning rate belongs to a batch
hint: add --base-batch N, the effective batch that you train with at this rate

$ bsprobe run --model torchvision:resnet18 --evaluate
error: --evaluate needs a segmentation network; torchvision:resnet18 classifies images
hint: give --model NAME of one, such as deeplabv2-resnet50 or torchvision:fcn_resnet50; or leave \
--evaluate out

$ bsprobe run --model parts:net --loss image-cross-entropy --evaluate
error: --evaluate needs a segmentation network; parts:net classifies images
hint: leave --loss image-cross-entropy out, or --evaluate

$ bsprobe study --model torchvision:resnet18
error: bsprobe study needs a segmentation network; torchvision:resnet18 classifies images
hint: give --model NAME of one, such as deeplabv2-resnet50 or torchvision:fcn_resnet50

$ bsprobe run --input 3x64x96 --resolution 64x64
error: --input says 64x96, --resolution 64x64
hint: give one of the two

$ bsprobe run --input 512x1024
error: --input: '512x1024' is not CHANNELSxHEIGHTxWIDTH
hint: for example 3x512x1024; for volumes 1x96x96x96: channels, slices, height, width

$ bsprobe run --input 1x0x64x64
error: --input: 0 slices are out of range
hint: give 1 to 32768

$ bsprobe run --input 0x64x64
error: --input: 0 channels are out of range
hint: give 1 to 4096

$ bsprobe run --batch-from parts:batch --input 3x64x64
error: --input says what images are made, and --batch-from makes them
hint: leave one of the two out

$ bsprobe run --batch-from parts:batch --data D
error: --data needs images and labels; --batch-from parts:batch makes its own
hint: leave one of the two out

$ bsprobe run --input 4x64x64 --data D
error: --data has images of 3 channels, --input says 4
hint: leave one of the two out

$ bsprobe run --model-arg width
error: --model-arg: 'width' is not NAME=VALUE
hint: for example width=64

$ bsprobe run --model-arg a=1 --model-arg a=2
error: --model-arg: a is given twice
hint: give it once

$ bsprobe run --model-arg num_classes=few
error: --model-arg num_classes=few: it is no number of classes
hint: give 1 to 1048576, for example --model-arg num_classes=19

$ bsprobe run --model-arg num_classes=true
error: --model-arg num_classes=true: it is no number of classes
hint: give 1 to 1048576, for example --model-arg num_classes=19

$ bsprobe run --loss pixel-crossentropy
error: --loss: 'pixel-crossentropy' is unknown
hint: did you mean pixel-cross-entropy? Known: pixel-cross-entropy, image-cross-entropy, \
PACKAGE.MODULE:CALLABLE

$ bsprobe run --model torchvision:resnet18 --loss pixel-cross-entropy
error: --loss pixel-cross-entropy: torchvision:resnet18 is a network for classification
hint: leave --loss out, or give --model NAME of a network for segmentation

$ bsprobe run --optimizer-from parts:adam --optimizer adamw
error: --optimizer does nothing with --optimizer-from parts:adam
hint: leave one of the two out

$ bsprobe run --optimizer-from adam
error: --optimizer-from: 'adam' is not PACKAGE.MODULE:CALLABLE
hint: for example training.parts:build, or train.py:build

$ bsprobe run --loop outputs=kept,outputs=dropped
error: --loop: outputs is given twice
hint: give it once

$ bsprobe run --loop zero_grad=start
error: --loop: 'zero_grad' is no habit
hint: give zero-grad, gradients, batch or outputs

$ bsprobe run --loop zero-grad=never
error: --loop: zero-grad cannot be 'never'
hint: give start, before-backward or end

$ bsprobe run --checkpoint-blocks down*
error: --checkpoint-blocks down* does nothing without checkpointing
hint: add --checkpointing on

$ bsprobe run --checkpointing on --checkpoint-blocks ,
error: --checkpoint-blocks names nothing
hint: for example 'encoder.layer*'

$ bsprobe run --norm grup
error: --norm: 'grup' is unknown
hint: did you mean group? Known: batch, sync-batch, group, group-amp, instance, frozen, \
as-built

$ bsprobe run --processes 4
error: --processes 4: bsprobe starts no processes that train together
hint: torchrun --nproc-per-node 4 -m bsprobe run, on the GPUs of this machine; or predict: add \
--gpu NAME

$ bsprobe run --gpu A10 --ddp static-graph
error: --ddp static-graph does nothing with one process
hint: leave it out; several are started by torchrun, or predicted by --gpu NAME --processes N

$ bsprobe run --norm sync-batch
error: --norm sync-batch: one process has nobody to share statistics with
hint: torchrun --nproc-per-node N -m bsprobe run, or bsprobe run --gpu NAME --processes N; else \
--norm batch

$ bsprobe run --device cpu --memory-limit 2GiB,1GiB
error: --memory-limit: 2 limits are for 2 processes under torchrun, and there is 1
hint: give one limit for all

$ bsprobe run --precision fp64
error: --precision: 'fp64' is unknown
hint: did you mean fp32? Known: fp32, amp-fp16, amp-bf16

$ bsprobe run --norm ,
error: --norm names no value
hint: choose among batch, sync-batch, group, group-amp, instance, frozen, \
as-built

$ bsprobe run --resolution 16x2048
error: resolution 16x2048 is too small for the networks: a side is 16 pixels
hint: give at least 32x32

$ bsprobe run --resolution 512x1000000
error: resolution 512x1000000 is too large: a side is 1000000 pixels
hint: give at most 32768 pixels a side; Cityscapes is 1024x2048

$ bsprobe run --resolution=-512x1024
error: '-512x1024' is not a resolution
hint: write HEIGHTxWIDTH, for example 512x1024, or one of cityscapes, cityscapes-half

$ bsprobe run --memory-limit 0GiB
error: '0GiB' is no memory at all
hint: write for example 11GiB

$ bsprobe run --headroom 1
error: --headroom: 1 is out of range
hint: give 1e-06 to less than 1; or is 1% meant?

$ bsprobe run --headroom 100%
error: --headroom: 100% is out of range
hint: give 1e-06 to less than 1

$ bsprobe run --trial-timeout 5%
error: --trial-timeout: '5%' is not a number
hint: for example 0.05

$ bsprobe run --input 512x768x3
error: --input: '512x768x3' has its channels last
hint: channels come first: --input 3x512x768

$ bsprobe run --resolution 512x768x4
error: --resolution: '512x768x4' has three numbers, and a resolution is HEIGHTxWIDTH
hint: give --resolution 512x768; or --input 4x512x768, where the channels come first

$ bsprobe run --gpu custom --capacity 24GiB --compute-capability 86
error: --compute-capability: '86' is unknown
hint: did you mean 8.6? Known: 6.0, 6.1, 7.0, 7.5, 8.0, 8.6, 8.9, 9.0, 10.0, 12.0

$ bsprobe explain --gpu custom --capacity 24GiB --compute-capability sm_120
error: --compute-capability: 'sm_120' is unknown
hint: did you mean 12.0? Known: 6.0, 6.1, 7.0, 7.5, 8.0, 8.6, 8.9, 9.0, 10.0, 12.0

$ bsprobe run --gpu custom --capacity 24GiB --compute-capability 87
error: --compute-capability: '87' is unknown
hint: the nearest is 8.6; known: 6.0, 6.1, 7.0, 7.5, 8.0, 8.6, 8.9, 9.0, 10.0, 12.0

$ bsprobe run --base-lr nan
error: --base-lr: nan is out of range
hint: give 1e-12 to 1e+06

$ bsprobe run --evaluate-at 512x1024
error: --evaluate-at does nothing without --evaluate
hint: add --evaluate

$ bsprobe run --subset 5
error: --subset does nothing without --data
hint: add --data ROOT

$ bsprobe run --resume
error: there is no unfinished run below reports/
hint: name its folder with --out

$ bsprobe report nowhere
error: nowhere does not exist
hint: is this the folder of a run?

$ bsprobe study --device=cpu
error: --data is missing: a study needs images to learn from
hint: draw some with `bsprobe sample-data DIR`, then add --data DIR

$ bsprobe study --batches=,
error: --batches names nothing
hint: for example 2,4,8

$ bsprobe study --batches=2,0
error: --batches: '0' is no batch size
hint: give whole numbers, 1 to 1048576, for example 2,4,8

$ bsprobe study --batches=2,x
error: --batches: 'x' is no batch size
hint: give whole numbers, 1 to 1048576, for example 2,4,8

$ bsprobe study --batches=1048573,1048575
error: --batches: no number of images that all of them divide is small enough to train on
hint: give batches that divide 2000000000 images or fewer, for example 2,4,8

$ bsprobe run --memory-limit 99999999999GiB
error: '99999999999GiB' is more memory than any machine has
hint: give at most 1048576GiB

$ bsprobe run --resume --out nowhere
error: --resume: nowhere does not exist
hint: start a new run without --resume

$ bsprobe run --resume --out .
error: --resume: . holds no run to go on with
hint: start a new run without --resume

$ bsprobe study --resume
error: there is no unfinished study below reports/
hint: name its folder with --out

$ bsprobe study --resume --out nowhere
error: --resume: nowhere does not exist
hint: start a new study without --resume

$ bsprobe run --search=guided --device=cpu
error: --search guided needs a prediction, and nothing predicts the memory of a CPU
hint: leave it out, or probe a GPU: --device cuda

$ bsprobe run --search=guided --device=cpu --dry-run
error: --search guided needs a prediction, and nothing predicts the memory of a CPU
hint: leave it out, or probe a GPU: --device cuda

$ bsprobe run --search=guided --gpu='RTX 3090'
error: --search guided measures on a GPU; without one, all of it is predicted anyway
hint: leave it out

$ bsprobe run --device cpu --model deeplab-resnet50
error: --model: 'deeplab-resnet50' is unknown
hint: did you mean deeplabv2-resnet50? Known: deeplabv2-resnet50, deeplabv2-resnet101, \
deeplabv2-mini, torchvision:NAME, timm:NAME, smp:ARCHITECTURE, hf:CONFIG.json, \
PACKAGE.MODULE:NAME

$ bsprobe run --model resnet18
error: --model: 'resnet18' is unknown
hint: did you mean torchvision:resnet18?

$ bsprobe run --model torchvision:resnet19
error: --model: 'torchvision:resnet19' is unknown
hint: did you mean torchvision:resnet18? There are 86, such as torchvision:resnet152, \
torchvision:resnet101, torchvision:resnet50, torchvision:resnet34, torchvision:densenet169

$ bsprobe run --device cude:0
error: --device: 'cude:0' is unknown
hint: choose cpu, cuda or cuda:N

$ bsprobe study --data D --weights W
error: --weights: W does not exist
hint: give the path of a file

$ bsprobe run --gpu A10 --memory-limit 11
error: a memory limit of 11 B is used up by the CUDA context, which takes 275 MiB
hint: give a larger --memory-limit, with its unit: 11GiB

$ bsprobe run --gpu A10 --dry-run --gpu A100
error: --gpu is given twice
hint: give it once

$ bsprobe study --out a --out b --out a
error: --out is given 3 times
hint: give it once

$ bsprobe run --norm batch --norm group
error: --norm is given twice
hint: give it once, with commas between its values: --norm A,B

$ bsprobe compare nowhere nowhere
error: nowhere does not exist
hint: is this the folder of a run?

$ bsprobe compare nowhere nowhere --fail-on peek:3%
error: --fail-on: 'peek' is unknown
hint: did you mean peak? Known: max-batch, safe-batch, peak, peak-allocated, peak-reserved, \
memory-per-image, throughput

$ bsprobe compare nowhere nowhere --fail-on peak:3% --fail-on peak:1GiB
error: --fail-on names peak twice
hint: keep the stricter one
"""
"""Commands, and all that they say; they leave nothing behind."""


@pytest.mark.parametrize(
    "case", WRONG.strip().split("\n\n"), ids=lambda case: case.partition("\n")[0]
)
def test_wrong_input_gets_a_line_and_a_hint(case: str, tmp_path: Path) -> None:
    command, _, complaint = case.removeprefix("$ bsprobe ").partition("\n")
    done = bsprobe(*shlex.split(command), cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"{complaint}\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    ["run --max-batch 0", "run --target-batch -3", "run --steps 2", "run --bogus", "bogus"],
)
def test_what_click_refuses_is_shown_the_same_way(arguments: str, tmp_path: Path) -> None:
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
def test_options_of_other_tools_are_answered_with_those_of_this_one(
    typed: str, meant: str, tmp_path: Path
) -> None:
    done = bsprobe(*typed.split(), cwd=tmp_path)
    error, hint = done.stderr.splitlines()
    assert (done.returncode, done.stdout, hint) == (2, "", f"hint: give {meant}")
    option = typed.split()[-2 if " " in typed.partition("--")[2] else -1].partition("=")[0]
    assert option in error


def test_every_option_that_such_an_answer_names_exists() -> None:
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


def test_without_a_command_the_help_is_printed_as_it_is(tmp_path: Path) -> None:
    alone, asked = bsprobe(cwd=tmp_path), bsprobe("--help", cwd=tmp_path)
    assert (alone.returncode, alone.stdout, alone.stderr) == (2, "", asked.stdout)
    assert len(asked.stdout.splitlines()) > 10


@pytest.mark.parametrize(
    ("held", "hint"),
    [
        (["notes.txt"], "give another --out"),
        (
            ["journal.jsonl"],
            "go on with what was begun in it by adding --resume, or give another --out",
        ),
        (["journal.jsonl", "run.json"], "give another --out"),
    ],
)
def test_a_folder_that_holds_something_is_refused_and_resume_named_where_it_helps(
    held: list[str], hint: str, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    for name in held:
        (tmp_path / "full" / name).write_text("mine")
    done = bsprobe("run", "--device", "cpu", "--out", "full", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        f"error: --out full exists and is not an empty folder\nhint: {hint}\n",
    )
    assert {path.read_text() for path in (tmp_path / "full").iterdir()} == {"mine"}


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
    assert "error: the network makes 5 logits for 19 classes\n" in done.stderr
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
def test_a_value_of_any_length_is_shown_by_its_ends(typed: list[str], tmp_path: Path) -> None:
    done = bsprobe(*typed, cwd=tmp_path)
    error, hint = done.stderr.splitlines()
    assert (done.returncode, error[:7], hint[:6]) == (2, "error: ", "hint: ")
    assert 200 < len(error) < 700
    assert "…" in error
    assert "make room" not in hint


def test_what_is_typed_next_can_be_pasted_whatever_a_folder_is_called(tmp_path: Path) -> None:
    done = bsprobe("sample-data", "A ü", "--images=5", "--size=32x64", cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "Next: bsprobe data 'A ü'"
    assert wrote(Path("B &"), "report.md") == "Wrote B &/\nNext: read 'B &/report.md'"


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
def test_what_torchrun_starts_wrongly_is_said_once(
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
        "study": "torchrun started several processes, and bsprobe study is one",
        "run --gpu H100": "--gpu predicts, and torchrun starts processes that run",
        "run --processes 3": "--processes 3: torchrun started 2",
        "run --device cuda:1": "--device cuda:1: torchrun's processes cannot share a GPU",
        "run --device cpu": (
            "--device cpu needs --memory-limit where several processes share the memory"
        ),
        "run --device cpu --norm sync-batch": (
            "--norm sync-batch: PyTorch's SyncBatchNorm runs on GPUs alone"
        ),
        "run --device cpu --memory-limit 1GiB,2GiB,1GiB": (
            "--memory-limit: 3 limits are for 3 processes under torchrun, and there are 2"
        ),
    }
    for arguments, complaint in wrong.items():
        done = bsprobe(*arguments.split(), cwd=tmp_path)
        said = done.stderr.splitlines()
        assert (done.returncode, said[:1]) == (2, [f"error: {complaint}"] if rank == "0" else [])


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_whoever_reads_only_the_beginning_makes_no_failure(tmp_path: Path, unbuffered: str) -> None:
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


def test_a_run_in_which_all_failed_says_so_and_its_report_where(tmp_path: Path) -> None:
    (tmp_path / "buggy.py").write_text(BUGGY)
    done = bsprobe(
        *("run", "--gpu=RTX 3090", "--model=buggy.py:Net", "--resolution=64x64"),
        *("--norm=batch", "--precision=fp32", "--out=out"),
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert done.stderr.endswith(
        "error: every variant failed, and none for want of the memory that was probed\n"
        "hint: all details are in out/report.md\n"
    )
    report = (tmp_path / "out" / "report.md").read_text()
    assert 'File "buggy.py", line 11, in forward' in report
    assert (tmp_path / "out" / "run.json").exists()
