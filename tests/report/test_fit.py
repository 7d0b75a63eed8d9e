"""`bsprobe gpus --fit`: the table, the advice and the files."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

from bsprobe.records.failures import Outcome
from bsprobe.records.fits import CardFit, Fitting
from bsprobe.records.gpus import custom_gpu, find_gpu
from bsprobe.records.matrix import matrix
from bsprobe.records.units import GIB
from bsprobe.records.variants import Norm, Precision
from bsprobe.records.workload import OwnParts
from bsprobe.report.commands import matrix_defaults, subject_options
from bsprobe.report.fit import advice, next_command, render_text, write_fitting
from bsprobe.report.run.terminal import WIDTH
from bsprobe.storage.codec import from_json
from tests.support.builders import ENVIRONMENT, HALF
from tests.support.golden import written_twice

FP32, AMP = matrix(
    models=["deeplabv2-resnet101"],
    resolutions=[HALF],
    choices={"precision": [Precision.FP32, Precision.AMP_FP16], "norm": [Norm.BATCH]},
)
LARGE, SMALL = custom_gpu(24 * GIB, "8.6", GIB), custom_gpu(8 * GIB, "7.5", GIB)


def fitting(wanted_batch: int | None = None) -> Fitting:
    answers = {(LARGE, FP32): 5, (SMALL, FP32): None, (LARGE, AMP): 11, (SMALL, AMP): 3}
    return Fitting(
        environment=ENVIRONMENT,
        wanted_batch=wanted_batch,
        fits=tuple(
            CardFit(gpu=gpu, variant=v, largest=largest, next_outcome=Outcome.OUT_OF_MEMORY)
            for (gpu, v), largest in answers.items()
        ),
    )


def test_the_table_lists_the_smallest_card_first_and_says_that_it_is_predicted() -> None:
    lines = render_text(fitting()).splitlines()
    assert lines[0] == "deeplabv2-resnet101 · 512 high x 1024 wide · 19 classes · SGD  [predicted]"
    assert lines[3:7] == [
        "                                                    fp32  amp-fp16",
        "GPU                                        usable  batch     batch",
        "custom 8.00 GiB, compute capability 7.5  8.00 GiB      -         3",
        "custom 24.0 GiB, compute capability 8.6  24.0 GiB      5        11",
    ]
    assert max(map(len, lines)) <= WIDTH


def test_variants_with_the_same_answer_share_a_line() -> None:
    found = fitting()
    alike = [replace(fit, largest=5) for fit in found.fits]
    (line,) = advice(replace(found, fits=tuple(alike)))
    assert line.startswith("fp32 / batch, amp-fp16 / batch: batch 1 runs from custom 8.00 GiB")


def test_the_advice_names_the_smallest_card_that_runs_what_was_asked_for() -> None:
    assert advice(fitting(8)) == [
        "fp32 / batch: no listed card runs batch 8.",
        (
            "amp-fp16 / batch: batch 8 runs from custom 24.0 GiB, compute capability 8.6 (24.0 GiB "
            "usable) upwards, on 1 of 2 cards."
        ),
    ]


def test_cards_whose_memory_is_not_what_ends_the_search_are_counted() -> None:
    found = fitting(400)
    (large, *rest) = found.fits
    limited = replace(large, largest=215, next_outcome=Outcome.KERNEL_LIMIT)
    nothing, limits = advice(replace(found, fits=(limited, *rest)))
    assert nothing == "fp32 / batch, amp-fp16 / batch: no listed card runs batch 400."
    assert all(words in limits for words in ("fp32 / batch: on 1 card", "2^31", "batch 215"))


def test_the_files_hold_everything_and_are_the_same_every_time(tmp_path: Path) -> None:
    found = fitting(8)
    files = written_twice(lambda folder: write_fitting(found, folder), tmp_path)
    assert list(files) == ["fit.csv", "fit.json", "fit.md", "fit.png", "fit.svg"]
    assert from_json(Fitting, json.loads(files["fit.json"])) == found
    head, *lines = files["fit.csv"].decode().splitlines()
    assert head.startswith("source,gpu,compute_capability,usable_bytes,allocator_bytes,model,")
    assert [line.split(",")[0] for line in lines] == ["predicted"] * 4
    assert "![largest batch by card](fit.png)" in files["fit.md"].decode()


def test_what_some_cards_do_not_run_is_told_once_with_their_names() -> None:
    found = fitting()
    pascals = [custom_gpu(size * GIB, "6.1", GIB) for size in (8, 11)]
    fits = tuple(
        CardFit(gpu=gpu, variant=FP32, largest=1, next_outcome=Outcome.OUT_OF_MEMORY)
        for gpu in (*pascals, LARGE)
    )
    told = advice(replace(found, fits=fits))[-1]
    names = ", ".join(gpu.name for gpu in pascals)
    assert told.startswith(f"{names}: PyTorch's builds for CUDA 12.8 and later do not run")


def test_what_is_estimated_is_told_with_the_cards_unless_it_is_so_of_all() -> None:
    found = fitting()
    noted = [replace(fit, notes=("Estimated.",)) for fit in found.fits]
    some = [fit if fit.gpu == LARGE else replace(fit, notes=()) for fit in noted]

    assert advice(replace(found, fits=tuple(noted)))[-1] == "Estimated."
    assert advice(replace(found, fits=tuple(some)))[-1] == f"{LARGE.name}: Estimated."


def test_the_next_command_names_the_smallest_card_that_is_enough_and_all_options() -> None:
    assert next_command(fitting(8)) == (
        "bsprobe run --gpu 'custom 24.0 GiB, compute capability 8.6' --model deeplabv2-resnet101 "
        "--resolution 512x1024 --norm batch"
    )


def test_the_next_command_keeps_a_user_supplied_network_and_quotes_it() -> None:
    own = OwnParts(model_args=(("width", "[1, 2]"),), optimizer="m:adam")
    variant = replace(FP32, model="my net.py:make", norm=Norm.AS_BUILT, channels=4, own=own)
    words = shlex.join(subject_options((variant,), matrix_defaults((variant,))))
    assert words == (
        "--model 'my net.py:make' --input 4x512x1024 --model-arg 'width=[1, 2]' "
        "--optimizer-from m:adam --precision fp32"
    )


def test_a_search_that_ended_at_its_limit_says_at_least() -> None:
    gpu = find_gpu("RTX 4090")
    fit = CardFit(gpu=gpu, variant=FP32, largest=4096, next_outcome=None)
    assert fit.largest_words == ">=4096"
    assert replace(fit, next_outcome=Outcome.OUT_OF_MEMORY).largest_words == "4096"
    assert replace(fit, largest=None).largest_words == ""
