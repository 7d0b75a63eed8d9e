"""Count the boundaries that a trial of two steps would prove wrongly, on cards of all sizes.

    PYTHONPATH=. python benchmarks/settling.py [--model deeplabv2-resnet101] [--resolution 512x1024]

Near the limit PyTorch's allocator releases its cache to find room. Free memory is then arranged
differently in the next step, which may run out. For each limit the script finds the largest batch
that passes two steps, plays it for longer, and plays it as `bsprobe` does: until a step needs no
retry. Needs no GPU; takes a minute.
"""

import argparse
from contextlib import AbstractContextManager
from unittest.mock import patch

from bsprobe.analysis.search import gallop
from bsprobe.devices import settling
from bsprobe.devices.simulated import SimulatedDevice, Tracers
from bsprobe.records.gpus import find_gpu
from bsprobe.records.trials import TrialSpec
from bsprobe.records.units import GIB, MIB, parse_resolution
from bsprobe.records.variants import Norm, Precision, Variant
from bsprobe.simulate.allocator.caching import SimulatedOutOfMemoryError

_GPU = "H100 80GB"
_LIMITS = range(6 * GIB, 79 * GIB, 2 * GIB + 12 * MIB)
_MOST_IMAGES = 64
_LONG = 60
"""Steps of the longest trial, which decides."""


def as_asked() -> AbstractContextManager[object]:
    """Run trials with exactly the requested number of steps."""
    return patch.object(settling, "_MOST_UNSETTLED", 0)


def runs(device: SimulatedDevice, variant: Variant, batch: int, steps: int) -> bool:
    """True if a trial of some steps does not run out of memory."""
    spec = TrialSpec(variant=variant, batch_size=batch, warmup_steps=1, measured_steps=steps - 1)
    try:
        device.run_trial(spec, lambda _: None)
    except SimulatedOutOfMemoryError:
        return False
    return True


def largest_of_two_steps(device: SimulatedDevice, variant: Variant) -> int | None:
    """Return the largest batch that two steps pass, None if there is none."""
    with as_asked():
        return gallop(
            lambda batch: runs(device, variant, batch, 2),
            _MOST_IMAGES // 2,
            minimum=1,
            max_batch=_MOST_IMAGES,
        )


def last_step(device: SimulatedDevice, variant: Variant, batch: int) -> int | None:
    """Return the step in which a batch runs out of memory, None if it does not."""
    with as_asked():
        if runs(device, variant, batch, _LONG):
            return None
        return next(n for n in range(3, _LONG + 1) if not runs(device, variant, batch, n))


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description="Boundaries that two steps prove wrongly.")
    parser.add_argument("--model", default="deeplabv2-resnet101")
    parser.add_argument("--resolution", default="512x1024", type=parse_resolution)
    given = parser.parse_args()
    tracers, boundaries, late, missed = Tracers(), 0, [], 0
    for precision in (Precision.FP32, Precision.AMP_FP16):
        for norm in (Norm.BATCH, Norm.GROUP):
            variant = Variant(
                model=given.model, resolution=given.resolution, precision=precision, norm=norm
            )
            for limit in _LIMITS:
                device = SimulatedDevice(find_gpu(_GPU), limit, tracers=tracers)
                batch = largest_of_two_steps(device, variant)
                if batch is None:
                    continue
                boundaries += 1
                step = last_step(device, variant, batch)
                if step is not None:
                    late.append(step)
                    print(f"{precision} / {norm}, {limit / GIB:.1f} GiB: {batch}, step {step}")
                missed += (step is None) != runs(device, variant, batch, 2)
    print(f"{boundaries} boundaries of two steps, {len(late)} of them run out of memory later")
    print(f"in steps {sorted(late)}; judged wrongly by settled trials: {missed}")


if __name__ == "__main__":
    main()
