"""Buffers of CUDA's sums, through which blocks pass partial sums. They depend on the card.

Source: ATen/native/cuda/Reduce.cuh of PyTorch 2.11, `setReduceConfig` and `gpu_reduce_kernel`.
"""

from dataclasses import dataclass

_WARP = 32
_THREADS = 512
"""`mnt_wrapper`: the most threads of a block."""
_LEAST_VALUES = 16
_MOST_VALUES = 256
"""Values that each thread adds up, at the least and at the most where blocks share an output."""
_SEMAPHORE = 4
"""Bytes of an int."""
_INT32_BYTES = 2**31
"""Tensors of this size and more are added up in halves (`with_32bit_indexing`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Multiprocessors:
    """The facts of a card that decide the size of a buffer."""

    count: int
    threads: int
    """Threads that run on one of them at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduction:
    """A sum over other dimensions than the innermost in memory, such as a bias's gradient.

    If the innermost dimension is summed too, a block passes on one value per output. These few KB
    are left out.
    """

    outputs: int
    inputs: int
    """Numbers that are added up for each output."""
    item_bytes: int
    """Of a number that is added."""
    sum_bytes: int
    """Of a sum while it grows."""
    vector: int
    """Neighbouring outputs that a thread computes at once: 1, 2 or 4."""

    def sizes_on(self, card: Multiprocessors) -> tuple[int, ...]:
        """Bytes of partial sums and semaphores; none if one block computes an output alone.

        PyTorch multiplies the partial sums by the width of a block and by the vector, although
        all outputs are already counted (`global_memory_size`).
        """
        inputs = self.inputs
        while self.outputs * inputs * self.item_bytes >= _INT32_BYTES and inputs > 1:
            inputs = _up(inputs, 2)
        vectors = self.outputs // self.vector
        width, height = _block(vectors, inputs, _THREADS // self.vector)
        values, blocks = _up(inputs, height), _up(vectors, width)
        wanted = card.count * (card.threads // (width * height))
        if inputs < height * _LEAST_VALUES or values < _MOST_VALUES or blocks > wanted:
            return ()
        parts = min(_up(wanted, blocks), _up(values, _LEAST_VALUES))
        parts = max(parts, _up(values, _MOST_VALUES))
        if parts == 1:
            return ()
        return self.sum_bytes * self.outputs * parts * width * self.vector, _SEMAPHORE * blocks


def _block(vectors: int, inputs: int, most: int) -> tuple[int, int]:
    """Width and height of a block (`set_block_dimension`)."""
    wide, high = min(_power(vectors), most), min(_power(inputs), most)
    height = min(high, most // min(wide, _WARP))
    return min(wide, most // height), height


def _power(number: int) -> int:
    """The largest power of two that is no larger (`last_pow2`)."""
    return 1 << max(0, number.bit_length() - 1)


def _up(number: int, by: int) -> int:
    """A quotient, rounded up."""
    return -(-number // by)
