"""The sweep of the data loader."""

from pathlib import Path

import pytest
import torch

from bsprobe.records.units import Resolution
from bsprobe.study.learning import loading
from bsprobe.study.learning.loading import measure_loading
from bsprobe.study.plan import loader_settings
from bsprobe.study.records import LoaderSpec
from bsprobe.training import step
from tests.support.study_builders import PLACE, first_training, study_settings


def test_every_setting_is_timed_alone_and_in_use_for_the_batch_as_it_is_accumulated(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_SECONDS", 0.0)
    batches: list[list[int]] = []
    real = step.training_step

    def spy(task: step.Task, micro_batches: list[step.Batch]) -> torch.Tensor:
        batches.append([len(batch.images) for batch in micro_batches])
        return real(task, micro_batches)

    monkeypatch.setattr(loading, "training_step", spy)
    training = first_training(
        study_settings(6, micro_batch=3), data=root, size=Resolution(height=32, width=32)
    )
    settings = loader_settings(on_gpu=False, processors=2)

    found = measure_loading(LoaderSpec(training=training, settings=settings), PLACE, lambda _: None)

    assert (found.effective_batch, found.micro_batch) == (6, 3)
    assert tuple(rate.setting for rate in found.rates) == settings
    assert found.step_images_per_second > 0
    for rate in found.rates:
        assert min(rate.alone_images_per_second, rate.fed_images_per_second) > 0
    # Two warm-up and three timed updates, on images in memory and with each setting.
    assert batches == [[3, 3]] * 5 * (1 + len(settings))
