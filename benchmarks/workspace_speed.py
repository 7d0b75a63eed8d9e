"""How long a question for a convolution's workspaces takes: milliseconds, cold and from the cache.

Asks for every convolution of the default network at several batches, in both dtypes and all three
directions, for every compute capability; then again, and again from the file. Run it from a
checkout:

    python benchmarks/workspace_speed.py
"""

import sys
import tempfile
import time
from dataclasses import replace
from itertools import product
from pathlib import Path

from benchmarks.network_convolutions import CAPABILITIES, DTYPES, RESOLUTIONS, network_convolutions
from bsprobe.records.units import MIB
from bsprobe.simulate.cudnn.convolutions import Convolution, Direction
from bsprobe.simulate.cudnn.workspace import Workspaces

GOAL_MILLISECONDS = 5
NETWORK = "deeplabv2-resnet101"
BATCHES = (1, 2, 3, 4, 6, 8, 12, 16)


def questions() -> list[Convolution]:
    """Everything that a default run may ask for."""
    forward = [
        each for batch in BATCHES for each in network_convolutions(NETWORK, RESOLUTIONS[0], batch)
    ]
    return [
        replace(each, dtype=dtype, direction=direction)
        for each, dtype, direction in product(forward, DTYPES, Direction)
    ]


def ask_all(workspaces: Workspaces, asked: list[Convolution]) -> float:
    """Milliseconds a question."""
    start = time.perf_counter()
    for each in asked:
        workspaces.candidates(each)
    return (time.perf_counter() - start) * 1e3 / len(asked)


def main() -> None:
    """Print a line for each compute capability and the verdict."""
    asked = questions()
    colds = []
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for capability in CAPABILITIES:
            with Workspaces(capability, cache=Path(folder)) as workspaces:
                if workspaces.cudnn_version is None:
                    sys.exit(workspaces.notes[0])
                cold = ask_all(workspaces, asked)
                warm = ask_all(workspaces, asked)
            colds.append(cold)
            began = time.perf_counter()
            again = Workspaces(capability, cache=Path(folder))
            opening = (time.perf_counter() - began) * 1e3
            print(
                f"{capability[0]}.{capability[1]:<3} {len(asked)} questions: cold {cold:.2f} ms "
                f"each, again {warm:.3f} ms; from the file {ask_all(again, asked):.3f} ms, "
                f"opened in {opening:.0f} ms"
            )
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    print(f"all: {time.perf_counter() - start:.1f} s; the files take {size / MIB:.1f} MiB")
    verdict = "reached" if max(colds) <= GOAL_MILLISECONDS else "NOT reached"
    print(f"slowest {max(colds):.2f} ms a question; goal {GOAL_MILLISECONDS} ms: {verdict}")


if __name__ == "__main__":
    main()
