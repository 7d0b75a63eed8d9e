"""A torch dataset of Cityscapes, or of any folder in its layout."""

from pathlib import Path

import torch
from torch.utils.data import Dataset

from bsprobe.records.printable import shell_word
from bsprobe.training.cityscapes.samples import Problem, Sample, Split, list_split, load_pair
from bsprobe.training.cityscapes.transforms import JointTransform, as_tv_tensors


class CityscapesDataset(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """One split: pairs of an image (float32, 3xHxW) and its train ids (int64, HxW).

    The transform sets H and W. Images of the test split have the label 255 everywhere.

    Attributes:
        samples: The files, in the order of the indices.
    """

    def __init__(self, root: Path, split: Split, *, transform: JointTransform) -> None:
        """List the files of a split, opening none of them.

        Args:
            root: The folder that holds `leftImg8bit/` and `gtFine/`.
            split: The split to list.
            transform: From `bsprobe.training.cityscapes.transforms`.

        Raises:
            FileError: A folder is missing, an image has no label, or a label no image.
        """
        listing = list_split(root, split)
        if listing.problems:
            error = listing.problems[0].as_error()
            error.hint = f"{error.hint}; `bsprobe data {shell_word(str(root))}` lists all problems"
            raise error
        self.samples: tuple[Sample, ...] = listing.samples
        self._transform = transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Read and transform one pair.

        Raises:
            FileError: A file is damaged or of the wrong mode, or the two differ in size.
        """
        pair = load_pair(self.samples[index])
        if isinstance(pair, Problem):
            raise pair.as_error()
        return self._transform(*as_tv_tensors(*pair))
