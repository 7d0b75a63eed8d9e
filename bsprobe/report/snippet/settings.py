"""The fields of a snippet that depend on a plan and a variant."""

from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.runs import TrainingPlan
from bsprobe.records.variants import CudnnBenchmark, MemoryFormat, Precision, Variant

_DTYPES = {Precision.AMP_FP16: "torch.float16", Precision.AMP_BF16: "torch.bfloat16"}


def settings(variant: Variant, plan: TrainingPlan, device_kind: DeviceKind) -> dict[str, object]:
    """Return the fields that all templates have in common.

    Args:
        variant: The variant to train.
        plan: Its plan.
        device_kind: The kind of device that the run was made on.
    """
    nhwc = variant.memory_format is MemoryFormat.NHWC
    is_volume = variant.resolution is not None and variant.resolution.slices is not None
    last = "channels_last_3d" if is_volume else "channels_last"
    benchmark = variant.cudnn_benchmark is CudnnBenchmark.ON
    return {
        "micro_batch": plan.micro_batch,
        "accumulation_steps": plan.accumulation_steps,
        "effective_batch": plan.effective_batch,
        "lr_rule": plan.lr_rule,
        "device": "cpu" if device_kind is DeviceKind.CPU else "cuda",
        "benchmark": "    torch.backends.cudnn.benchmark = True\n" if benchmark else "",
        "layout": f", memory_format=torch.{last}" if nhwc else "",
        "scaler": variant.precision is Precision.AMP_FP16,
        "dtype": _DTYPES.get(variant.precision, "torch.bfloat16"),
        "autocast": variant.precision is not Precision.FP32,
    }
