"""Drawn scenes on the disk, for tests that read images."""

from pathlib import Path

from bsprobe.records.units import Resolution
from bsprobe.training.cityscapes.synthetic import write_sample_data

SIZE = Resolution(height=64, width=128)


def drawn(folder: Path, count: int, *, seed: int = 0, size: Resolution = SIZE) -> Path:
    """Create a folder with a number of scenes, of which a fifth are for validation.

    Args:
        folder: The new folder.
        count: The number of scenes.
        seed: The seed of the drawing.
        size: The size of the images.
    """
    write_sample_data(folder, count=count, size=size, seed=seed, on_written=lambda _: None)
    return folder


def cut_off_image(folder: Path) -> Path:
    """Damage an image of the training split and return its path."""
    image = next((folder / "leftImg8bit" / "train").rglob("*.png"))
    image.write_bytes(image.read_bytes()[:200])
    return image
