"""Record cuDNN's plans and kernels for convolutions on this GPU, to compare with described cards.

    PYTHONPATH=. python benchmarks/card_plans.py FILE.json.gz [--minutes 2]
    PYTHONPATH=. python benchmarks/card_plans.py FILE.json.gz --compare

For every distinct convolution of some networks, in both dtypes, both layouts and all directions,
records the first plans that cuDNN builds for this card (names and workspaces), requested as
PyTorch's convolutions request them. Then records the kernels that the convolutions of DeepLabV2
launch, using PyTorch's profiler. FILE is rewritten every few seconds, so an interruption loses
little. `--compare` needs no GPU: it counts the first plans and workspaces that are equal to those
of the same cuDNN for the described card.
"""

import argparse
import gzip
import json
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import islice, product
from pathlib import Path
from typing import Any

import torch

from benchmarks.workspaces import (
    DEFAULT,
    NETWORKS,
    RESOLUTIONS,
    in_every_way,
    network_convolutions,
    run_by_cudnn,
)
from bsprobe.records.trials import TrialSpec
from bsprobe.records.variants import MemoryFormat, Precision, Variant
from bsprobe.simulate.cudnn.convolutions import Convolution
from bsprobe.simulate.cudnn.plans import CudnnPlans, described_card
from bsprobe.storage.codec import from_json

BATCHES = (2, 5)
_MOST_PLANS = 6
_PROFILED_BATCH = 2
_SAVE_EVERY_SECONDS = 10.0


class NamedPlans(CudnnPlans):
    """cuDNN's plans with their names."""

    def named(self, convolution: Convolution) -> list[tuple[str, int]]:
        """Return name and workspace of the first plans that build, in cuDNN's order."""
        plans = islice(self._plans(convolution), _MOST_PLANS)
        return [(str(graph.get_plan_name_at_index(index)), size) for graph, index, size in plans]


class PlansOfThisCard(NamedPlans):
    """cuDNN's plans for the installed GPU."""

    def _place(self, card: Mapping[str, Any]) -> dict[str, Any]:
        del card  # the handle of the installed GPU is used instead
        return {"handle": self._cudnn.create_handle()}

    def _on_a_real_card(self, convolution: Convolution, graph: Any, index: int, size: int) -> int:
        del convolution, graph, index  # asked, not predicted
        return size


def questions(capability: tuple[int, int], version: int) -> Iterator[Convolution]:
    """Yield convolutions to ask about, those of the default network first."""
    seen: set[Convolution] = set()
    for network, resolution, batch in product(NETWORKS, RESOLUTIONS, BATCHES):
        asked = in_every_way(network_convolutions(network, resolution, batch))
        for each in run_by_cudnn(asked, capability, version):
            if each not in seen:
                seen.add(each)
                yield each


def kernels(precision: Precision, memory_format: MemoryFormat) -> list[dict[str, Any]]:
    """Return the kernels that each convolution of a DeepLabV2 training step launches."""
    from bsprobe.devices.cuda import CudaDevice  # noqa: PLC0415 - needs a GPU

    variant = Variant(
        model=DEFAULT,
        resolution=RESOLUTIONS[0],
        precision=precision,
        memory_format=memory_format,
    )
    spec = TrialSpec(variant=variant, batch_size=_PROFILED_BATCH, warmup_steps=1, measured_steps=1)
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities, record_shapes=True) as profiler:
        CudaDevice(0, None).run_trial(spec, lambda _phase: None)
    return [
        {
            "operator": event.name,
            "sizes": event.input_shapes,
            "kernels": [[each.name, each.duration] for each in event.kernels],
        }
        for event in profiler.events()
        if event.name in ("aten::cudnn_convolution", "aten::convolution_backward")
    ]


def compare(found: Mapping[str, Any]) -> None:
    """Print the agreement with the described card by direction, dtype, layout and kind."""
    plans = NamedPlans(described_card((9, 0))[1], allow_tf32=True, deterministic=False)
    if plans.version != found["cudnn"]:
        sys.exit(
            f"error: the plans were recorded with cuDNN {found['cudnn']}, "
            f"the installed version is {plans.version}"
        )
    counts: dict[tuple[str, ...], list[int]] = {}
    for asked, answer in found["plans"]:
        convolution = from_json(Convolution, asked, place="convolution")
        described = plans.named(convolution)
        if not answer or isinstance(answer, str) or not described:
            continue
        layout = "nhwc" if convolution.channels_last else "nchw"
        kind = "1x1" if set(convolution.weight_size[2:]) == {1} else "larger"
        row = counts.setdefault((kind, convolution.direction, convolution.dtype, layout), [0] * 3)
        same = (True, answer[0][0] == described[0][0], answer[0][1] == described[0][1])
        row[:] = [count + is_one for count, is_one in zip(row, same, strict=True)]
    for key, (asked_for, same_plan, same_bytes) in sorted(counts.items()):
        print(f"{' '.join(key):<40} {asked_for:>4} recorded, {same_plan:>4} plans and ", end="")
        print(f"{same_bytes:>4} workspaces equal")


def main() -> int:
    """Record until the time is up, or compare; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument(
        "--compare", action="store_true", help="compare FILE with the described card"
    )
    given = parser.parse_args()
    if given.compare:
        compare(json.loads(gzip.decompress(given.file.read_bytes())))
        return 0
    deadline = time.monotonic() + given.minutes * 60
    capability = torch.cuda.get_device_capability()
    found: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version(),
        "kernels": {},
        "plans": [],
    }

    def save() -> None:
        given.file.write_bytes(gzip.compress(json.dumps(found).encode()))

    for precision, layout in product((Precision.FP32, Precision.AMP_FP16), MemoryFormat):
        try:
            found["kernels"][f"{precision} {layout}"] = kernels(precision, layout)
        except Exception:  # noqa: BLE001 - the plans are recorded without the profiler
            found["kernels"][f"{precision} {layout}"] = traceback.format_exc()
            traceback.print_exc()
        torch.cuda.empty_cache()
        save()
    plans = PlansOfThisCard(described_card(capability)[1], allow_tf32=True, deterministic=False)
    saved = time.monotonic()
    for each in questions(capability, plans.version):
        try:
            answer: Any = plans.named(each)
        except Exception as error:  # noqa: BLE001 - recorded as the answer for this convolution
            answer = repr(error)
        found["plans"].append([asdict(each), answer])
        if time.monotonic() > saved + _SAVE_EVERY_SECONDS:
            save()
            saved = time.monotonic()
        if time.monotonic() > deadline:
            print("The time is up.")
            break
    save()
    print(f"{len(found['plans'])} convolutions", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
