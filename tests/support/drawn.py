"""Drawn scenes on the disk, for tests that read images."""

from pathlib import Path

from bsprobe.records.units import Resolution
from bsprobe.training.cityscapes.synthetic import write_sample_data

SIZE = Resolution(height=64, width=128)


def drawn(folder: Path, count: int, *, seed: int = 0, size: Resolution = SIZE) -> Path:
    """A new folder with so many scenes; a fifth of them are for validation."""
    write_sample_data(folder, count=count, size=size, seed=seed, on_written=lambda _: None)
    return folder


def cut_off_image(folder: Path) -> Path:
    """Damage an image of the training split: the one that is to be named."""
    image = next((folder / "leftImg8bit" / "train").rglob("*.png"))
    image.write_bytes(image.read_bytes()[:200])
    return image
