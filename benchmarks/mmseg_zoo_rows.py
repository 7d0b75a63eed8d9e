"""Extracts the measured memory of mmsegmentation's model zoo from the metafiles in its wheel.

With mmsegmentation installed, see published-requirements.txt:

    python -m benchmarks.mmseg_zoo_rows

Writes all rows except those of `mmseg-zoo.csv` to `data/published/mmseg-metafiles.csv`, prints the
entries that are left out with the reason, and fails if a row of `mmseg-zoo.csv` disagrees.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import yaml

from benchmarks.published_data import DATA, rows_of

COLUMNS: Final = ("config", "images_per_gpu", "mem_gb", "amp", "known", "card", "trained")
KNOWN: Final = (
    *("configs/mobilenet_v2/", "configs/mobilenet_v3/"),
    *("configs/convnext/", "configs/erfnet/", "configs/fastscnn/", "configs/poolformer/"),
    *("configs/upernet/", "unet-s5-d16_pspnet_4xb4-ce-1.0-dice-3.0-40k_hrf-256x256"),
)
"""Rows that were used to find a rule: ReLU6 in place and mmcv's own HSwish; GELU and losses in
fp32; ReLU out of place; the loss of logits; precision by name; the Winograd transform."""
RENAMED: Final = {
    # The metafile has an extra letter; the weights are named like the existing file.
    "ddeeplabv3plus_r101-d16-mg124_4xb2-40k_cityscapes-512x1024": (
        "deeplabv3plus_r101-d16-mg124_4xb2-40k_cityscapes-512x1024"
    ),
    "eemanet_r50-d8_4xb2-80k_cityscapes-512x1024": "emanet_r50-d8_4xb2-80k_cityscapes-512x1024",
    # The file kept its older name.
    "fpn_poolformer_s36_8xb4-40k_ade20k-512x512": "fpn_poolformer_s36_8x4_512x512_40k_ade20k",
}
"""Configurations that no file is named after, and their files."""
MISTAKEN: Final = {
    "pspnet_r50-d32_512x1024_80k_cityscapes_20220316_224840-9092b254.pth": (
        "configs/pspnet/pspnet_r50-d32_4xb2-80k_cityscapes-512x1024.py"
    ),
}
"""Configurations of entries that name the previous entry's one, by the names of their weights."""
LOST: Final = {
    "fpn_r101_4xb4-160k_ade20k-512x512": "its file assigns `model` twice, and builds the R-50",
}
"""Configurations that do not build the measured network, with the reason."""
CARDS: Final = ("V100", "A100", "TITAN Xp", "1080 Ti")
MOST_GB: Final = 80
"""The memory of the largest of these cards; a larger figure has another unit."""


class LeftOutError(Exception):
    """An entry is unusable; the message is the reason."""


def row_of(entry: Mapping[str, Any]) -> dict[str, str]:
    """Extract a row from an entry of a metafile.

    Raises:
        LeftOutError: The entry contradicts itself.
    """
    facts = entry["Metadata"]
    weights = str(entry.get("Weights") or "").rpartition("/")[2]
    folder, _, name = entry["Config"].removesuffix(".py").rpartition("/")
    config = MISTAKEN.get(weights, f"{folder}/{RENAMED.get(name, name)}.py")
    processes, _, card = facts["Training Resources"].removesuffix(" GPUS").partition("x ")
    images = int(facts["Batch Size"]) // int(processes)
    memory = float(facts["Memory (GB)"])
    if name in LOST:
        raise LeftOutError(LOST[name])
    if card not in CARDS:
        raise LeftOutError(f"{card!r} is not a card")
    if memory > MOST_GB:
        raise LeftOutError(f"{memory} cannot be GB")
    named = re.search(r"_(\d+)xb(\d+)-", name)
    if named and (int(named[1]), int(named[2])) != (int(processes), images):
        raise LeftOutError(f"its name says {named[2]} images a GPU, the entry {images}")
    date = re.search(r"[_-](20\d{6})[_-]", weights)
    return {
        "config": config,
        "images_per_gpu": str(images),
        "mem_gb": str(facts["Memory (GB)"]),
        "amp": "yes" if "-amp-" in config else "no",
        "known": "yes" if any(part in config for part in KNOWN) else "no",
        "card": card,
        "trained": date[1] if date else "",
    }


def measured(entries: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, str]]:
    """Yield the rows of all entries with a figure, and print those that are left out."""
    found = []
    for entry in entries:
        if entry["Metadata"].get("Memory (GB)") is None:
            continue
        try:
            found.append(row_of(entry))
        except LeftOutError as error:
            print(f"left out: {entry['Config']}: {error}")
    times = Counter(row["config"] for row in found)
    for row in found:
        if times[row["config"]] == 1:
            yield row
        else:
            print(f"left out: {row['config']}: {times[row['config']]} entries, {row['mem_gb']} GB")


def entries_of(folder: Path) -> Iterator[Mapping[str, Any]]:
    """Read the entries of all metafiles, in the order of their folders."""
    for path in sorted(folder.glob("*/metafile.yaml")):
        yield from yaml.safe_load(path.read_text(encoding="utf-8")).get("Models") or ()


def main() -> None:
    """Write the table."""
    spec = find_spec("mmseg")
    if spec is None or spec.origin is None:
        raise SystemExit("mmsegmentation is missing: see benchmarks/published-requirements.txt")
    rows = list(measured(entries_of(Path(spec.origin).parent / ".mim" / "configs")))
    zoo = rows_of("mmseg-zoo.csv")
    here = {row["config"]: row for row in rows}
    for row in zoo:
        other = here[row["config"]]
        same = {name: other[name] for name in COLUMNS if name not in ("known", "mem_gb")}
        if float(other["mem_gb"]) != float(row["mem_gb"]) or not same.items() <= row.items():
            raise SystemExit(f"mmseg-zoo.csv has {row}, the metafile {other}")
    there = {row["config"] for row in zoo}
    with (DATA / "mmseg-metafiles.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(row for row in rows if row["config"] not in there)


if __name__ == "__main__":
    main()
