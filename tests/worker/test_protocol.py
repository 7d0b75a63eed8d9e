"""Messages between parent and worker: each is one line, and only known messages are decoded."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsprobe.records.explanations import RecordedTrial
from bsprobe.records.failures import Outcome
from bsprobe.records.rates import LearningRateRule
from bsprobe.records.runs import DeviceRequest, TrainingPlan
from bsprobe.records.trials import DataSource, TrialSpec
from bsprobe.storage.codec import MalformedError
from bsprobe.study.messages import KINDS as STUDY_KINDS
from bsprobe.study.messages import LoadingDone, MeasureLoading, Train, TrainingDone
from bsprobe.study.records import (
    LoaderRate,
    LoaderSetting,
    LoaderSpec,
    Loading,
    TrainingSpec,
)
from bsprobe.training.cityscapes.normalisation import InputNormalisation
from bsprobe.worker.protocol import (
    KINDS,
    Attribute,
    Explain,
    Explained,
    Message,
    OpenDevice,
    Progress,
    Ready,
    Record,
    Recorded,
    Refused,
    RunTrial,
    TrialDone,
    decode,
    encode,
)
from tests.support.builders import DEVICE, UNUSUAL, VARIANT, failure, measurement
from tests.support.explanations import EXPLANATION
from tests.support.study_builders import result

SETTING = LoaderSetting(workers=2, prefetch_factor=2, pin_memory=True)
SPEC = TrainingSpec(
    variant=VARIANT,
    plan=TrainingPlan(
        micro_batch=2,
        accumulation_steps=2,
        effective_batch=4,
        learning_rate=0.01,
        group_learning_rates=(),
        lr_rule=LearningRateRule.LINEAR,
        updates=10,
        warmup_updates=1,
    ),
    seed=1,
    validations=2,
    noise_steps=3,
    data=DataSource(root="D", subset=5),
    workers=1,
    weights="w.pth",
    input_normalisation=InputNormalisation.CAFFE_BGR,
)
RECORDED = RecordedTrial(
    spec=TrialSpec(variant=VARIANT, batch_size=3),
    measurement=measurement(),
    phases=("opening", "building", "step 1"),
    device_index=1,
    capacity_bytes=2**34,
)
MESSAGES: tuple[Message, ...] = (
    OpenDevice(
        request=DeviceRequest(device="cuda:1", memory_limit_bytes=2**34), variants=(UNUSUAL,)
    ),
    RunTrial(spec=TrialSpec(variant=VARIANT, batch_size=3, accumulation_steps=2)),
    Ready(device=DEVICE, torch="2.6.0", cuda="12.4", cudnn=None, cpu_threads=8),
    Refused(message='no GPU here: "none"\nat all', hint=None),
    Progress(phase="step 2 of 4 · ü"),
    Explain(spec=TrialSpec(variant=VARIANT, batch_size=3), snapshot="/some/where/ü.pickle"),
    Explained(explanation=EXPLANATION),
    Record(spec=TrialSpec(variant=VARIANT, batch_size=3), snapshot="/some/where/ü.pickle"),
    Attribute(trial=RECORDED, snapshot="/some/where/ü.pickle"),
    Recorded(trial=RECORDED),
    Recorded(failure=failure()),
    TrialDone(outcome=Outcome.FITS, measurement=measurement(), clean=True),
    TrialDone(outcome=Outcome.OUT_OF_MEMORY, failure=failure(), clean=False),
    Train(spec=SPEC, checkpoint="out/batch-2.checkpoint"),
    MeasureLoading(spec=LoaderSpec(training=SPEC, settings=(SETTING,))),
    TrainingDone(outcome=Outcome.FITS, result=result(SPEC, diverged_at=3)),
    TrainingDone(outcome=Outcome.OUT_OF_MEMORY, failure=failure()),
    LoadingDone(
        outcome=Outcome.FITS,
        result=Loading(
            effective_batch=4,
            micro_batch=2,
            step_images_per_second=9.5,
            rates=(
                LoaderRate(
                    setting=SETTING, alone_images_per_second=20.0, fed_images_per_second=9.0
                ),
            ),
        ),
    ),
)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_is_one_line_and_decoded_as_it_was(message: Message) -> None:
    line = encode(message)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert decode(line, {**KINDS, **STUDY_KINDS}) == message


@given(st.text())
def test_no_text_breaks_the_line(text: str) -> None:
    message = Refused(message=text, hint=text)
    line = encode(message)
    assert line.index(b"\n") == len(line) - 1
    assert decode(line) == message


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"Downloading weights: 100%\n",
        b"[]\n",
        b"3\n",
        b"null\n",
        b'{"phase": "step 1"}\n',
        b'{"kind": "Shutdown"}\n',
        b'{"kind": null}\n',
        b'{"kind": ["Progress"], "phase": "step 1"}\n',
        b'{"kind": "Progress"}\n',
        b'{"kind": "Progress", "phase": 3}\n',
        b'{"kind": "Progress", "phase": "step 1", "more": 1}\n',
        b'{"kind": "TrialDone", "outcome": "fits nicely", "clean": true}\n',
        b"\xff\xfe\x00{",
        b"[" * 100_000,
    ],
    ids=lambda line: repr(line[:50]),
)
def test_a_line_that_is_no_message_is_malformed(line: bytes) -> None:
    with pytest.raises(MalformedError):
        decode(line)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_cut_off_anywhere_is_malformed(message: Message) -> None:
    line = encode(message).rstrip(b"\n")
    for length in range(len(line)):
        with pytest.raises(MalformedError):
            decode(line[:length], {**KINDS, **STUDY_KINDS})


def test_each_kind_of_worker_decodes_only_its_own_messages() -> None:
    for line, kinds in (
        (encode(MeasureLoading(spec=LoaderSpec(training=SPEC, settings=(SETTING,)))), KINDS),
        (encode(RunTrial(spec=TrialSpec(variant=VARIANT, batch_size=1))), STUDY_KINDS),
    ):
        with pytest.raises(MalformedError, match="not a message"):
            decode(line, kinds)


def test_a_message_with_infinity_is_not_encoded() -> None:
    done = TrialDone(
        outcome=Outcome.FITS,
        measurement=replace(measurement(), images_per_second=float("inf")),
        clean=True,
    )
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode(done)


def test_the_kind_is_the_name_of_the_class() -> None:
    for message in MESSAGES:
        assert json.loads(encode(message))["kind"] == type(message).__name__
