"""Training steps of mmsegmentation's model zoo, built from its own configurations and code.

The wheel `mmsegmentation==1.2.2` contains both; see published-requirements.txt. Most of the zoo was
trained by older versions, from 0.5 on; this module implements their differences in a training step.
"""

import sys
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NoReturn

import mmseg
import torch
from mmengine.config import Config, ConfigDict
from torch import nn
from torch.utils._pytree import tree_map_only

from benchmarks.published_programs import ProgramTracer
from bsprobe.records.habits import BatchPlace, Gradients, Habits, ZeroGrad
from bsprobe.records.units import Resolution
from bsprobe.records.variants import Precision, Variant
from bsprobe.records.workload import OwnParts
from bsprobe.simulate.timeline import Timeline, at_one_batch
from bsprobe.simulate.versions import Version
from bsprobe.training.losses import OwnLoss
from bsprobe.training.own_batches import OwnBatch
from bsprobe.training.step import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Era:
    """Software that rows were trained with. The zoo does not record it per row."""

    version: Version
    """The PyTorch version."""
    habits: Habits
    has_fp32_losses: bool
    """True if heads compute their losses in fp32, from labels that the loader has stacked."""


MMCV: Final = Era(
    version=(1, 5),
    habits=Habits(
        zero_grad=ZeroGrad.BEFORE_BACKWARD, gradients=Gradients.ZERO, batch=BatchPlace.MOVED
    ),
    has_fp32_losses=True,
)
"""mmsegmentation up to 0.30, with the PyTorch version from the beginning of the zoo.

`IterBasedRunner.train` keeps the outputs as `self.outputs` (mmcv/runner/iter_based_runner.py of
1.0), `OptimizerHook.after_train_iter` clears gradients between loss and backward pass
(mmcv/runner/hooks/optimizer.py), and scattering moves a batch that nothing keeps."""
MMENGINE: Final = Era(
    version=(1, 13),
    habits=Habits(zero_grad=ZeroGrad.END, gradients=Gradients.ZERO, batch=BatchPlace.MOVED),
    has_fp32_losses=False,
)
"""mmsegmentation from 1.0 on, with the latest stable PyTorch of that time.

`OptimWrapper.update_params` clears gradients after the optimizer's step
(mmengine/optim/optimizer/optimizer_wrapper.py)."""
_MMENGINE_SINCE: Final = "202211"
"""The month of the first rows whose weights are named as in 1.0. Some of these rows carry the
figure of an older training."""
_HARDSWISH: Final = (1, 7)
"""The PyTorch version from which mmcv uses `nn.Hardswish`."""
CONFIGS: Final = Path(mmseg.__file__).parent / ".mim"
"""The folder that the configuration paths of the zoo are relative to."""
OUTPUTS_GIVEN: Final = ("psamask_forward", "psamask_backward")
"""Compiled operators that write to tensors allocated by Python (mmcv/ops/psa_mask.py)."""


class CompiledOperators(ModuleType):
    """Stand-in for `mmcv._ext`, which mmcv-lite lacks; mmcv's Python code around it is used."""

    def __getattr__(self, name: str) -> Any:
        """Return an operator: those in `OUTPUTS_GIVEN` do nothing, others raise when called."""
        if name.startswith("__"):
            raise AttributeError(name)
        return _write_nothing if name in OUTPUTS_GIVEN else partial(_refuse, name)


def _write_nothing(*_: object, **__: object) -> None:
    """Leave outputs unchanged: fake tensors have no values."""


def _refuse(name: str, *_: object, **__: object) -> NoReturn:
    raise NotImplementedError(f"{name} is a compiled operator of mmcv, which mmcv-lite lacks")


def registries() -> Any:
    """Import mmsegmentation's networks and optimizers, without mmcv's compiled operators."""
    if "mmcv._ext" not in sys.modules:
        stand_in = CompiledOperators("mmcv._ext")
        stand_in.__spec__ = ModuleSpec("mmcv._ext", loader=None)  # mmengine looks for it
        sys.modules["mmcv._ext"] = stand_in
    from mmcv.cnn.bricks.hswish import HSwish  # noqa: PLC0415 - needs the stand-in
    from mmengine.registry import MODELS  # noqa: PLC0415 - as above
    from mmseg import registry, utils  # noqa: PLC0415 - needs the stand-in

    utils.register_all_modules(init_default_scope=True)
    if MMCV.version < _HARDSWISH:
        # With a PyTorch this old, mmcv/cnn/bricks/hswish.py registers mmcv's own class. No row
        # trained later has an HSwish.
        MODELS.register_module(name="HSwish", module=HSwish, force=True)
    return registry


def eras_of(trained: str) -> tuple[Era, ...]:
    """Return the eras that a row may belong to.

    Args:
        trained: The date of the training as YYYYMMDD, or empty text.
    """
    return (MMCV, MMENGINE) if trained > _MMENGINE_SINCE else (MMCV,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """The parts of a zoo configuration that affect memory."""

    path: str
    """The path of the configuration, beginning with `configs/`."""
    model: ConfigDict
    wrapper: ConfigDict
    """The optimizer and its per-parameter settings."""
    crop: Resolution
    images_per_gpu: int

    @property
    def precision(self) -> Precision:
        """Mixed precision if both the configuration and its file name request it.

        The name counts because 1.0 added mixed precision to the PoolFormers, whose rows are older.
        """
        is_mixed = self.wrapper.type == "AmpOptimWrapper" and "-amp-" in self.path
        return Precision.AMP_FP16 if is_mixed else Precision.FP32

    def same_step(self) -> str:
        """Return a text that is equal for configurations with equal steps."""
        model = deepcopy(self.model)
        model.pop("data_preprocessor", None)
        return f"{model} {self.wrapper} {self.precision} {self.crop}"


def training_of(path: str) -> Training:
    """Read a configuration.

    Args:
        path: The path of the configuration, beginning with `configs/`.

    Raises:
        FileNotFoundError: There is no configuration of this name.
    """
    config = Config.fromfile(CONFIGS / path)
    size = config.get("crop_size") or config.model.data_preprocessor.size
    height, width = (size, size) if isinstance(size, int) else size
    return Training(
        path=path,
        model=config.model,
        wrapper=config.optim_wrapper,
        crop=Resolution(height=height, width=width),
        images_per_gpu=config.train_dataloader.batch_size,
    )


class TrainingLoss(nn.Module):
    """A segmentor whose forward pass includes the loss, like `train_step`.

    Args:
        path: The path of the configuration.
        has_fp32_losses: As in `Era`.
    """

    def __init__(self, path: str, *, has_fp32_losses: bool) -> None:
        super().__init__()
        registry = registries()
        self.segmentor = registry.MODELS.build(training_of(path).model)
        if not has_fp32_losses:
            return
        for module in self.segmentor.modules():
            if hasattr(module, "_stack_batch_gt"):
                _take_stacked_labels(module)
            if hasattr(module, "loss_by_feat"):
                _compute_losses_in_fp32(module)

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Compute the loss to minimise.

        Args:
            images: (N, 3, H, W), normalised.
            labels: (N, 1, H, W), int64.
        """
        losses = self.segmentor.loss(images, _Samples(labels))
        loss: torch.Tensor = self.segmentor.parse_losses(losses)[0]
        return loss


class _Samples(list[Any]):
    """mmsegmentation's record of each image, with all labels stacked by the loader."""

    def __init__(self, labels: torch.Tensor) -> None:
        from mmengine.structures import PixelData  # noqa: PLC0415 - after `registries`
        from mmseg.structures import SegDataSample  # noqa: PLC0415 - as above

        self.labels = labels
        size = tuple(labels.shape[-2:])
        names = ("img_shape", "ori_shape", "pad_shape", "batch_input_shape")
        super().__init__(SegDataSample(metainfo=dict.fromkeys(names, size)) for _ in labels)
        for sample, each in zip(self, labels, strict=True):
            sample.gt_sem_seg = PixelData(data=each)


def _take_stacked_labels(head: Any) -> None:
    """Make a head use the labels as the loader stacked them, as until 0.30.

    From 1.0 on every head stacks the labels itself and allocates a copy. Source:
    `BaseDecodeHead.losses` in mmseg/models/decode_heads/decode_head.py of 0.17.
    """
    stack = head._stack_batch_gt  # noqa: SLF001 - there is no public hook

    def taken(samples: list[Any]) -> Any:
        return samples.labels if isinstance(samples, _Samples) else stack(samples)

    head._stack_batch_gt = taken  # noqa: SLF001 - as above


def _compute_losses_in_fp32(head: Any) -> None:
    """Make a head cast and enlarge its logits and compute its loss in fp32, as until 0.30.

    Source: `force_fp32` of `BaseDecodeHead.losses` in mmseg/models/decode_heads/decode_head.py of
    0.18, and in mmcv/runner/fp16_utils.py of 1.3.
    """
    compute = head.loss_by_feat

    def computed(logits: Any, *others: Any, **named: Any) -> Any:
        if not torch.is_autocast_enabled("cpu"):
            return compute(logits, *others, **named)
        with torch.autocast("cpu", enabled=False):
            logits = tree_map_only(torch.Tensor, torch.Tensor.float, logits)
            return compute(logits, *others, **named)

    head.loss_by_feat = computed


def optimizer_of(training: Training, segmentor: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer of a configuration with mmengine's constructor."""
    registry = registries()
    wrapper = deepcopy(training.wrapper)
    kept = {name: wrapper[name] for name in ("optimizer", "clip_grad") if name in wrapper}
    constructor = registry.OPTIM_WRAPPER_CONSTRUCTORS.build(
        {
            "type": wrapper.get("constructor", "DefaultOptimWrapperConstructor"),
            "optim_wrapper_cfg": {"type": "OptimWrapper", **kept},
            "paramwise_cfg": wrapper.get("paramwise_cfg"),
        }
    )
    found: torch.optim.Optimizer = constructor(segmentor).optimizer
    return found


class ZooTracer(ProgramTracer):
    """Tracer of one configuration's step in distributed training.

    Args:
        training: The configuration.
        era: The software that it was trained with.
        processes: The number of processes.
    """

    def __init__(self, training: Training, era: Era, processes: int = 4) -> None:
        self._training = training
        variant = Variant(
            model=f"{__name__}:{TrainingLoss.__name__}",
            resolution=training.crop,
            precision=training.precision,
            own=OwnParts(
                model_args=(
                    ("path", training.path),
                    ("has_fp32_losses", str(era.has_fp32_losses).lower()),
                ),
                habits=era.habits,
            ),
        )
        super().__init__(
            variant, era.version, optimizer=lambda _: self._optimizer(), processes=processes
        )

    def timeline(self, batch: int, accumulation_steps: int = 1) -> Timeline:
        """Record this batch size only; others are not needed."""
        return at_one_batch(self.record(batch, accumulation_steps))

    def _optimizer(self) -> torch.optim.Optimizer:
        segmentor = self._model.get_submodule("segmentor")
        return optimizer_of(self._training, segmentor)

    def _task(self) -> Task:
        task = super()._task()
        task.loss = OwnLoss(function=lambda loss, _: loss)
        task.scaler = torch.amp.GradScaler("cpu", enabled=task.autocast_dtype is not None)
        return task

    def _own_batch(self, size: int) -> OwnBatch:
        crop = self._training.crop
        images = torch.zeros(size, 3, crop.height, crop.width)
        labels = torch.zeros(size, 1, crop.height, crop.width, dtype=torch.int64)
        return OwnBatch(inputs=(images, labels), targets=labels)
