"""Workspaces of convolutions, as PyTorch requests them from the allocator.

PyTorch allocates a plan's workspace before a convolution and frees it after it. cuDNN lists its
plans for a described card (plans.py). An engine that it lists only for real cards was measured
(pointwise.py). If cuDNN no longer supports a card without tensor cores, the plans for the oldest
supported card are used. If cuDNN is unavailable, a bound computed from the sizes is used. A bias
needs no workspace: PyTorch adds it in a separate kernel, and its gradient is a sum.
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
"""Note for cards that the installed cuDNN does not support.

Compared for compute capability 6.1 with the plans of cuDNN 9.10.2, which supports it: with the
plans of cuDNN 9.24 for 7.5, four segmentation networks and classifiers of 224 to 1024 pixels
reserve 1 % less to 0.2 % more in fp32, and 6 % less to 15 % more with AMP. cuDNN 9.10.2 takes a
matrix of columns for the whole batch from a dilation of 18 on in fp32 (the algorithm GEMM). Without
it, DeepLab reserves 16 to 20 % less. The bound from the sizes is 11 % too low to 36 % too high."""


def timing_bytes(candidates: tuple[int, ...]) -> int:
    """Bytes that `torch.backends.cudnn.benchmark` requests at a convolution's first use.

    PyTorch allocates the largest workspace of all plans and times the plans in it. Before that it
    drops plans larger than both the free memory and the largest cached block. If memory runs out,
    it halves the request until it succeeds and drops the plans that no longer fit. Afterwards it
    empties the cache. The fastest plan is known only on the GPU; here the first plan, by expected
    time, is used.

    Args:
        candidates: Workspaces from `Workspaces.candidates`; at least one.

    Source: `generate_and_filter_plans` and `run_single_conv` in Conv_v8.cpp.
    """
    return max(candidates)


class Workspaces:
    """Workspaces of convolutions on cards of one compute capability.

    Use it as a context manager, or call `save` at the end to write new answers to the disk. Not
    thread-safe.
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
        """Load cuDNN; `notes` has the reason if it is unavailable.

        Args:
            capability: The card's compute capability, (8, 6) for 8.6.
            cache: Folder of the disk cache; None for bsprobe's folder in the user's cache folder.
            allow_tf32: `torch.backends.cudnn.allow_tf32`; PyTorch's default is True.
            deterministic: `torch.backends.cudnn.deterministic`.
            pytorch_cudnn: `torch.backends.cudnn.version()`; a note is added if it differs from the
                cuDNN that is queried. None for no check.
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
            note = f"workspaces are those of cuDNN {answering}; PyTorch loads {loaded}"
            self._notes += (f"cuDNN {note}.",)
        if described != capability and not self._stands_in:
            nearest = f"{_text(capability)} are those of {_text(described)}"
            self._notes += (f"cuDNN workspaces for compute capability {nearest}.",)
        folder = cache_folder() if cache is None else cache
        name = f"cudnn-{answering}-cc-{_text(described)}.json"
        self._cache = WorkspaceCache(folder / name, described=card)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.save()

    @property
    def cudnn_version(self) -> str | None:
        """Version of the queried cuDNN, such as "9.10.2"; None if the bound is used instead."""
        return None if self._plans is None else version_text(self._plans.version)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user, as sentences; complete after `save`."""
        return self._notes + (() if self._cache is None else self._cache.notes)

    def candidates(self, convolution: Convolution) -> tuple[int, ...]:
        """Bytes requested from the allocator, in the order in which PyTorch tries them.

        With `torch.backends.cudnn.benchmark` off, PyTorch runs the first plan whose workspace can
        be allocated. If none can, or cuDNN has no plan (an empty result), PyTorch raises a
        RuntimeError: "GET was unable to find an engine to execute this computation". Zero is a plan
        without a workspace. A convolution in PyTorch's own kernels has one candidate, the memory of
        those kernels; if it cannot be allocated, the convolution fails.
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
        """Write new answers to the disk; a failure becomes a note."""
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
    """Format the sizes that cuDNN gets; `is_transposed` is not among them."""
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
