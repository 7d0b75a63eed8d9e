"""Short trainings: they learn, and resume to the same figures after an interruption."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from bsprobe.records.errors import FileError
from bsprobe.records.runs import Target
from bsprobe.records.units import Resolution
from bsprobe.records.variants import Norm, Precision, Variant
from bsprobe.study.learning import train as learning
from bsprobe.study.learning.train import learn
from bsprobe.study.records import TrainingResult, TrainingSpec
from bsprobe.training import step
from tests.support.drawn import drawn
from tests.support.study_builders import PLACE, first_training, study_settings
from tests.support.tiny_networks import TinyNet, TwoHeadedNet


class DroppingNet(TinyNet):
    """A network that draws random numbers in training mode."""

    def __init__(self, variant: Variant) -> None:
        super().__init__(variant)
        self.dropout = nn.Dropout(0.3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(self.dropout(images))


class Stopped(BaseException):
    """Stands for a kill of the process."""


@pytest.fixture(autouse=True)
def _dropping(_tiny_networks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "build_model", DroppingNet)


def spec_of(
    root: Path,
    *,
    batch: int = 4,
    micro_batch: int | None = None,
    rate: float = 0.02,
    images: int = 48,
    precision: Precision = Precision.FP32,
) -> TrainingSpec:
    settings = replace(
        study_settings(batch, micro_batch=micro_batch, images=images),
        target=Target(base_batch=4, base_learning_rate=rate),
    )
    spec = first_training(settings, data=root, size=Resolution(height=32, width=64))
    return replace(spec, noise_steps=6, variant=replace(spec.variant, precision=precision))


def learnt(spec: TrainingSpec, checkpoint: Path) -> TrainingResult:
    """The result of a training without its times."""
    result = learn(spec, checkpoint, PLACE, lambda _: None)
    return replace(result, curve=tuple(replace(point, seconds=0.0) for point in result.curve))


def stopped_at(spec: TrainingSpec, checkpoint: Path, phase: str) -> None:
    """Run a training until a phase begins."""

    def report(now: str) -> None:
        if now.startswith(phase):
            raise Stopped

    with pytest.raises(Stopped):
        learn(spec, checkpoint, PLACE, report)


def test_a_training_learns_and_says_how(root: Path, tmp_path: Path) -> None:
    spec = spec_of(root, images=200)

    result = learnt(spec, tmp_path / "c")

    assert [p.updates for p in result.curve] == [0, 13, 25, 38, 50]
    assert [p.images for p in result.curve] == [0, 52, 100, 152, 200]
    first, last = result.curve[0], result.curve[-1]
    assert first.training_loss is None
    assert last.validation_loss is not None
    assert first.validation_loss is not None
    assert last.validation_loss < first.validation_loss < 10
    assert last.mean_iou > 2 * result.chance.mean_iou
    assert result.chance.class_name == "road"
    assert (result.training_images, result.validation_images) == (5, 2)
    assert (result.diverged_at, result.peak_bytes) == (None, 7)
    # Six noise samples, all in the second half.
    assert [sample.updates for sample in result.noise] == [38, 38, 38, 50, 50, 50]


@pytest.mark.parametrize(
    "phase",
    ["update 1 of", "update 2 of", "validation after 6", "update 8 of", "update 12 of", "gradient"],
)
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.AMP_FP16])
def test_a_training_that_was_killed_goes_on_to_identical_figures(
    root: Path, tmp_path: Path, phase: str, precision: Precision
) -> None:
    spec = spec_of(root, precision=precision)
    whole = learnt(spec, tmp_path / "whole")

    stopped_at(spec, tmp_path / "cut", phase)

    assert learnt(spec, tmp_path / "cut") == whole


def test_a_training_is_resumed_and_not_begun_again(root: Path, tmp_path: Path) -> None:
    spec = spec_of(root)
    stopped_at(spec, tmp_path / "cut", "update 8 of")
    phases: list[str] = []

    learn(spec, tmp_path / "cut", PLACE, phases.append)

    assert phases[0] == "building"
    assert phases[1].startswith("update 7 of 12, mIoU 0.")


def test_a_long_training_is_saved_between_validations(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning, "_SAVE_EVERY_SECONDS", 0.0)
    spec = spec_of(root)
    whole = learnt(spec, tmp_path / "whole")
    stopped_at(spec, tmp_path / "cut", "update 3 of")
    phases: list[str] = []

    result = learn(spec, tmp_path / "cut", PLACE, phases.append)

    assert phases[1].startswith("update 3 of 12")
    assert [p.training_loss for p in result.curve] == [p.training_loss for p in whole.curve]


@pytest.mark.nightly
def test_loading_processes_change_no_figure_and_another_seed_does(
    root: Path, tmp_path: Path
) -> None:
    spec = spec_of(root)
    result = learnt(spec, tmp_path / "a")

    assert learnt(replace(spec, workers=2), tmp_path / "b") == result
    assert learnt(replace(spec, seed=1), tmp_path / "c") != result


def test_accumulation_is_the_same_training_where_images_do_not_influence_each_other(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "build_model", TinyNet)
    plain = spec_of(root)
    plain = replace(plain, variant=replace(plain.variant, norm=Norm.GROUP))
    accumulated = replace(plain, plan=spec_of(root, micro_batch=2).plan)

    one, other = learnt(plain, tmp_path / "a"), learnt(accumulated, tmp_path / "b")

    assert accumulated.plan.accumulation_steps == 2
    for here, there in zip(one.curve, other.curve, strict=True):
        assert here.validation_loss == pytest.approx(there.validation_loss, rel=1e-4)


def test_the_optimizer_gets_each_groups_share_of_the_schedule(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[list[float]] = []
    real = step.training_step

    def spy(task: step.Task, batches: list[step.Batch]) -> torch.Tensor:
        rates.append([group["lr"] for group in task.optimizer.param_groups])
        return real(task, batches)

    monkeypatch.undo()  # the real network: it has three groups
    monkeypatch.setattr(learning, "training_step", spy)
    spec = spec_of(root, batch=8, images=32)
    spec = replace(spec, plan=replace(spec.plan, warmup_updates=2), noise_steps=0)

    learn(spec, tmp_path / "c", PLACE, lambda _: None)

    full = [0.04, 0.4, 0.8]
    shares = [0.5, 1.0, 0.5**0.9, 0.25**0.9]
    assert rates == [pytest.approx([rate * share for rate in full]) for share in shares]


def test_a_loss_that_is_not_finite_ends_the_training_as_a_result(
    root: Path, tmp_path: Path
) -> None:
    result = learnt(spec_of(root, rate=1e30), tmp_path / "c")

    assert result.diverged_at is not None
    assert 1 < result.diverged_at <= 12
    assert [p.updates for p in result.curve] == [
        u for u in (0, 3, 6, 9, 12) if u < result.diverged_at
    ]


def test_the_checkpoint_of_another_training_is_refused(root: Path, tmp_path: Path) -> None:
    stopped_at(spec_of(root), tmp_path / "c", "update 8 of")

    with pytest.raises(FileError, match="another training"):
        learnt(spec_of(root, rate=0.01), tmp_path / "c")


@pytest.mark.parametrize("length", [0, 10, 1000])
def test_a_damaged_checkpoint_is_refused_with_what_to_do(
    root: Path, tmp_path: Path, length: int
) -> None:
    spec, path = spec_of(root), tmp_path / "c"
    stopped_at(spec, path, "update 8 of")
    path.write_bytes(path.read_bytes()[:length])

    with pytest.raises(FileError, match="damaged") as refused:
        learnt(spec, path)

    assert "delete" in str(refused.value.hint)


def test_labels_of_no_known_class_are_refused(tmp_path: Path) -> None:
    folder = drawn(tmp_path / "scenes", 2)
    for path in (folder / "gtFine" / "val").rglob("*.png"):
        Image.new("L", (128, 64), 0).save(path)

    with pytest.raises(FileError, match="validation images") as refused:
        learnt(spec_of(folder), tmp_path / "c")
    assert str(refused.value.hint).endswith(f"bsprobe data {folder}")


def test_networks_with_an_auxiliary_head_are_studied_too(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "build_model", TwoHeadedNet)

    result = learnt(spec_of(root), tmp_path / "c")

    assert len(result.curve) == 5
