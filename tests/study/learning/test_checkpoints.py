"""Saving and restoring checkpoints. Resumed trainings are in `test_train`."""

import random
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch

from bsprobe.records.errors import FileError
from bsprobe.records.variants import Precision
from bsprobe.study.learning.checkpoints import Reached, restore_checkpoint, save_checkpoint
from bsprobe.training.batches import synthetic_batch
from bsprobe.training.step import build_task, training_step
from tests.support.study_builders import first_training, result
from tests.support.tiny_networks import VARIANT

CPU = torch.device("cpu")
FP16 = replace(VARIANT, precision=Precision.AMP_FP16)


def test_scaler_counts_and_everything_reached_come_back(tmp_path: Path) -> None:
    spec, path = first_training(), tmp_path / "c"
    task = build_task(FP16, CPU)
    task.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60, backoff_factor=2.0**-50)
    for _ in range(2):  # the first update overflows and is skipped
        training_step(task, [synthetic_batch(VARIANT, 2, device=CPU, seed=0)])
    made = result(spec)
    reached = Reached(
        updates=2,
        seconds=1.25,
        losses=(0.1, 0.2),
        curve=made.curve,
        noise=made.noise,
        chance=made.chance,
        peak_bytes=99,
    )

    save_checkpoint(path, spec, task, reached)
    fresh = build_task(FP16, CPU)
    restored = restore_checkpoint(path, spec, fresh)

    assert restored == reached
    assert (fresh.scaler.get_scale(), fresh.updates_applied) == (2.0**10, 1)
    torch.testing.assert_close(fresh.model.state_dict(), task.model.state_dict(), rtol=0, atol=0)


def test_without_a_checkpoint_nothing_is_restored(tmp_path: Path) -> None:
    assert restore_checkpoint(tmp_path / "c", first_training(), build_task(FP16, CPU)) is None


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, path, task = first_training(), tmp_path / "c", build_task(FP16, CPU)
    save_checkpoint(path, spec, task, Reached(updates=1))

    monkeypatch.setattr(torch, "save", mock.Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, spec, task, Reached(updates=2))

    assert restore_checkpoint(path, spec, task) == Reached(updates=1)
    assert [each.name for each in tmp_path.iterdir()] == ["c"]


CHANGES: dict[str, object] = {
    "reached": "[]",
    "model": {"zzz": torch.zeros(1)},
    "optimizer": {},
    "updates_applied": None,
    "random_state": torch.zeros(3),
}


@pytest.mark.parametrize(("key", "junk"), CHANGES.items(), ids=CHANGES)
@pytest.mark.parametrize("is_missing", [True, False])
def test_a_checkpoint_with_a_damaged_part_is_refused_by_name(
    tmp_path: Path,
    key: str,
    junk: object,
    is_missing: bool,  # noqa: FBT001 - parametrized
) -> None:
    spec, path, task = first_training(), tmp_path / "c", build_task(VARIANT, CPU)
    save_checkpoint(path, spec, task, Reached(updates=1))
    content = torch.load(path, weights_only=True)
    content.pop(key) if is_missing else content.update({key: junk})
    torch.save(content, path)
    with pytest.raises(FileError, match="c is damaged") as refused:
        restore_checkpoint(path, spec, task)
    assert "delete it" in str(refused.value.hint)


@pytest.mark.parametrize(
    "seed", [*range(40), *(pytest.param(s, marks=pytest.mark.nightly) for s in range(40, 500))]
)
def test_a_checkpoint_with_damaged_bytes_is_refused_or_restored(tmp_path: Path, seed: int) -> None:
    spec, path, task = first_training(), tmp_path / "c", build_task(VARIANT, CPU)
    reached = Reached(updates=1, losses=(0.5,))
    save_checkpoint(path, spec, task, reached)
    chance, data = random.Random(seed), bytearray(path.read_bytes())
    if seed % 5 == 0:
        del data[chance.randrange(len(data)) :]
    for _ in range(chance.choice((1, 1, 10, 1000))):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
    try:
        assert restore_checkpoint(path, spec, task) == reached
    except FileError as error:
        assert str(path) in str(error)  # noqa: PT017 - both outcomes are valid
        assert error.hint is not None  # noqa: PT017 - as above


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate "
            "memory: you tried to allocate 33767680 bytes."
        ),
        RuntimeError("CUDA error: unspecified launch failure"),
    ],
    ids=["memory", "GPU"],
)
def test_an_error_of_the_device_is_not_taken_for_damage(
    tmp_path: Path, error: RuntimeError, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, path, task = first_training(), tmp_path / "c", build_task(VARIANT, CPU)
    save_checkpoint(path, spec, task, Reached(updates=1))
    monkeypatch.setattr(task.optimizer, "load_state_dict", mock.Mock(side_effect=error))
    with pytest.raises(RuntimeError) as raised:
        restore_checkpoint(path, spec, task)
    assert raised.value is error
