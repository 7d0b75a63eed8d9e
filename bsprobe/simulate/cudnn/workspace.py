"""The temporary memory of convolutions: cuDNN's workspaces, as PyTorch asks the allocator for them.

Just before a convolution PyTorch allocates what cuDNN's plan needs and frees it just after. Which
plan that is cuDNN says itself, for a card of the compute capability asked about (plans.py); what it
leaves out for a card that is only described was measured on a real one (pointwise.py).
A cuDNN that no longer supports cards without tensor cores is asked about the oldest that it does.
Where it cannot be asked, a bound computed from the sizes takes its place. A bias adds nothing here:
PyTorch adds it in a kernel of its own, and its gradient is a sum.
"""

from pathlib import Path
from typing import Self

from bsprobe.records.gpus import FIRST_WITH_TENSOR_CORES
from bsprobe.simulate.cudnn.cache import WorkspaceCache
from bsprobe.simulate.cudnn.convolutions import (
    Backend,
    Convolution,
    Direction,
    backend_of,
    columns_bytes,
    upper_bound_bytes,
    version_text,
)
from bsprobe.simulate.cudnn.plans import (
    OLDEST_SINCE_THEN,
    CudnnPlans,
    CudnnUnavailableError,
    UnansweredError,
    UnsupportedCardError,
    described_card,
)
from bsprobe.simulate.cudnn.pointwise import MEASURED_CAPABILITY, matrix_product_bytes
from bsprobe.storage.files import cache_folder

__all__ = ["Convolution", "Direction", "Workspaces"]


_STANDS_IN = (
    "{reason} (9.10 does): workspaces are estimated, by its plans for {other} and, for "
    "dilated convolutions, by a matrix of columns."
)
"""A card of 6.1 against its own answers by cuDNN 9.10.2: four segmentation networks and
classifiers of 224 to 1024 pixels reserve 1 % less to 0.2 % more in fp32, with plans for 7.5 by
cuDNN 9.24, and 6 % less to 15 % more with AMP. Without the matrix, which 9.10.2 takes from a
dilation of 18 on in fp32 (the algorithm GEMM, for the whole batch), DeepLab reserves 16 to 20 %
less; the bound from the sizes is 11 % too low to 36 % too high."""


def timing_bytes(candidates: tuple[int, ...]) -> int:
    """The bytes that `torch.backends.cudnn.benchmark` asks for at a convolution's first use.

    It is the largest workspace of all plans, which are then timed in it. Before that PyTorch drops
    plans larger than both the free memory and the largest cached block; out of memory, it halves
    the request until it succeeds and drops the plans that no longer fit. After it the cache is
    emptied (`generate_and_filter_plans`, `run_single_conv` in Conv_v8.cpp). Which plan is the
    fastest nobody can know without running them: the first, by expected time, is taken for it.

    Args:
        candidates: From `Workspaces.candidates`; at least one.
    """
    return max(candidates)


class Workspaces:
    """Workspaces of convolutions on cards of one compute capability.

    Use it as a context manager, or call `save` at the end: answers are written to the disk once a
    run, not once a question. Not for several threads.
    """

    def __init__(
        self,
        capability: tuple[int, int],
        *,
        cache: Path | None = None,
        allow_tf32: bool = True,
        deterministic: bool = False,
        pytorch_cudnn: int | None = None,
    ) -> None:
        """Find cuDNN, if it is there; `notes` says so where it is not.

        Args:
            capability: The card's compute capability, (8, 6) for 8.6.
            cache: The folder that keeps answers; None is bsprobe's in the user's cache folder.
            allow_tf32: `torch.backends.cudnn.allow_tf32`, PyTorch's default being true.
            deterministic: `torch.backends.cudnn.deterministic`.
            pytorch_cudnn: `torch.backends.cudnn.version()`; another one that answers is noted.
        """
        self._capability = capability
        self._settings = f"tf32={allow_tf32:d} deterministic={deterministic:d}"
        self._plans: CudnnPlans | None = None
        self._cache: WorkspaceCache | None = None
        self._unanswered: set[str] = set()
        self._notes: tuple[str, ...] = ()
        self._stands_in = False
        try:
            described, card = described_card(capability)
            try:
                self._plans = CudnnPlans(card, allow_tf32=allow_tf32, deterministic=deterministic)
            except UnsupportedCardError as error:
                if capability >= FIRST_WITH_TENSOR_CORES:
                    raise
                self._stands_in = True
                self._notes = (_STANDS_IN.format(reason=error, other=_text(OLDEST_SINCE_THEN)),)
                described, card = described_card(OLDEST_SINCE_THEN)
                self._plans = CudnnPlans(card, allow_tf32=allow_tf32, deterministic=deterministic)
        except CudnnUnavailableError as error:
            self._notes = (f"cuDNN workspaces are estimated from the sizes: {error}.",)
            return
        answering = version_text(self._plans.version)
        if pytorch_cudnn not in (None, self._plans.version):
            loaded = version_text(pytorch_cudnn)
            note = f"workspaces are those of cuDNN {answering}; PyTorch itself loads {loaded}"
            self._notes += (f"cuDNN {note}.",)
        if described != capability and not self._stands_in:
            nearest = f"{_text(described)}, the nearest described, for {_text(capability)}"
            self._notes += (f"cuDNN workspaces are those of compute capability {nearest}.",)
        folder = cache_folder() if cache is None else cache
        name = f"cudnn-{answering}-cc-{_text(described)}.json"
        self._cache = WorkspaceCache(folder / name, described=card)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.save()

    @property
    def cudnn_version(self) -> str | None:
        """The cuDNN that answers, such as "9.10.2"; None where the bound stands in."""
        return None if self._plans is None else version_text(self._plans.version)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for whoever reads the answers; complete after `save`."""
        return self._notes + (() if self._cache is None else self._cache.notes)

    def candidates(self, convolution: Convolution) -> tuple[int, ...]:
        """Bytes asked of the allocator, in the order in which PyTorch tries them.

        With `torch.backends.cudnn.benchmark` off PyTorch runs the first plan whose workspace it
        can have, passing over those that are out of memory; the last one failing, it raises
        "GET was unable to find an engine to execute this computation", a RuntimeError. So does an
        empty answer: cuDNN has no plan at all. Zero is a plan that needs nothing. A convolution
        that PyTorch runs with kernels of its own has one candidate: what those allocate, and being
        out of memory there is final.
        """
        backend = backend_of(
            convolution,
            capability=self._capability,
            cudnn_version=0 if self._plans is None else self._plans.version,
        )
        match backend:
            case Backend.CUDNN:
                return self._of_cudnn(convolution)
            case Backend.COLUMNS:
                return (columns_bytes(convolution),)
            case Backend.DEPTHWISE:
                return (0,)

    def save(self) -> None:
        """Write new answers to the disk; failing to is a note, not an error."""
        if self._cache is not None:
            self._cache.save()

    def _of_cudnn(self, convolution: Convolution) -> tuple[int, ...]:
        described = self._asked(convolution)
        if self._stands_in and convolution.is_dilated_forward:
            return (convolution.input_size[0] * columns_bytes(convolution), *described)
        if self._plans is None or self._capability != MEASURED_CAPABILITY:
            return described
        product = matrix_product_bytes(convolution)
        return described if product is None else (product, *described)

    def _asked(self, convolution: Convolution) -> tuple[int, ...]:
        bound = (upper_bound_bytes(convolution),)
        if self._plans is None or self._cache is None:
            return bound
        key = f"{_key(convolution)} {self._settings}"
        answer = self._cache.find(key)
        if answer is None and key not in self._unanswered:
            try:
                answer = self._plans.workspaces(convolution)
            except UnansweredError as error:
                self._give_up(key, error)
            else:
                self._cache.add(key, answer)
        return bound if answer is None else answer

    def _give_up(self, key: str, error: UnansweredError) -> None:
        if not self._unanswered:
            self._notes = (
                *self._notes,
                f"Some cuDNN workspaces are estimated from the sizes: cuDNN failed ({error}).",
            )
        self._unanswered.add(key)


def _key(convolution: Convolution) -> str:
    """Everything that cuDNN is told; whether it is a transposed one's makes no difference to it."""
    wide = convolution.widened()
    sizes = (
        wide.input_size,
        wide.weight_size,
        wide.padding,
        wide.stride,
        wide.dilation,
    )
    layout = "channels-last" if wide.channels_last else "contiguous"
    return f"{wide.direction} {wide.dtype} {layout} " + " ".join(
        "x".join(map(str, size)) for size in sizes
    )


def _text(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
