"""Record of the sizes of user-supplied batches that are drawn at random."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """The sizes of some batches of one image each, drawn with different seeds."""

    count: int
    """The number of batches that were drawn."""
    sizes: tuple[str, ...]
    """The distinct sizes, the smallest first: `512x1024`. One if all have the same shapes."""
    seed: int | None = None
    """The seed of the largest. None if the sizes of a seed depend on the number of images, so that
    each trial draws anew."""

    @property
    def varies(self) -> bool:
        """True if not all batches have the same shapes."""
        return len(self.sizes) > 1

    def describe(self) -> str:
        """Return `largest of 8 drawn: 1024x2048; sizes 512x1024 to 1024x2048`."""
        smallest, largest = self.sizes[0], self.sizes[-1]
        if self.seed is None:
            return f"largest of {self.count} drawn for each batch; sizes {smallest} to {largest}"
        return f"largest of {self.count} drawn: {largest}; sizes {smallest} to {largest}"
