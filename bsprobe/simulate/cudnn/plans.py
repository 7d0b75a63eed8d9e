"""cuDNN's plans for a convolution and their workspaces, queried without a GPU.

Since 9.8 cuDNN can make plans for a described card (`device_properties.json`) instead of the one in
the machine. The query follows aten/src/ATen/native/cudnn/Conv_v8.cpp (PyTorch 2.6 to 2.10): one
operation, computed in fp32, with heuristic mode A (CUDNN_HEUR_MODE_INSTANT) and then the fallback
list. It excludes plans that convert inputs to a lower precision, plans with tensor cores for fp32
if TF32 is off, and nondeterministic plans if deterministic ones are requested. On cards of
compute capability 9.0 some plans take other workspaces than for a described card: slices.py.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from bsprobe.simulate.cudnn.convolutions import Convolution, Direction, strides, version_text
from bsprobe.simulate.cudnn.pointwise import MEASURED_CAPABILITY
from bsprobe.simulate.cudnn.slices import MEASURED_CUDNN, real_bytes

OLDEST_CUDNN: Final = 90800
"""First version with CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR (release notes of cuDNN 9.8)."""
FIRST_WITHOUT_VOLTA: Final = 91100
"""First version without kernels for Maxwell, Pascal and Volta (support matrix). Queried for such a
card, it returns a few general plans, which differ from those of an older cuDNN."""
OLDEST_SINCE_THEN: Final = (7, 5)
"""Oldest compute capability that cuDNN supports since `FIRST_WITHOUT_VOLTA`."""

_PROPERTIES: Final = Path(__file__).with_name("device_properties.json")
_DATA_TYPES: Final = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BFLOAT16"}


class CudnnUnavailableError(Exception):
    """cuDNN cannot be queried; the message is a clause for the end of a note."""


class UnsupportedCardError(CudnnUnavailableError):
    """This cuDNN version does not support the card."""


class UnansweredError(Exception):
    """cuDNN failed for a convolution, with an error other than having no plan."""


class CudnnPlans:
    """cuDNN's plans for one card.

    Attributes:
        version: cuDNN's version number: 91002 is 9.10.2.
    """

    def __init__(self, card: Mapping[str, Any], *, allow_tf32: bool, deterministic: bool) -> None:
        """Load cuDNN and describe a card to it.

        Args:
            card: The description, from `described_card`.
            allow_tf32: True if fp32 may use tensor cores.
            deterministic: True to exclude nondeterministic plans.

        Raises:
            CudnnUnavailableError: The package or the library is missing or too old, or does not
                support the card.
        """
        self._cudnn = _load()
        self.version: int = self._cudnn.backend_version()
        if self.version < OLDEST_CUDNN:
            raise CudnnUnavailableError(
                f"cuDNN {version_text(self.version)} cannot make plans without the card "
                f"({version_text(OLDEST_CUDNN)} or later can)"
            )
        major, minor = divmod(card["deviceVer"] // 10, 10)
        self._capability = (major, minor)
        if (major, minor) < OLDEST_SINCE_THEN and self.version >= FIRST_WITHOUT_VOLTA:
            raise UnsupportedCardError(
                f"cuDNN {version_text(self.version)} does not support compute capability "
                f"{major}.{minor}"
            )
        try:
            self._where = self._place(card)
            notes = self._cudnn.numerical_note
            self._barred = [notes.DOWN_CONVERT_INPUTS]
            if deterministic:
                self._barred.append(notes.NONDETERMINISTIC)
            self._barred_for_fp32 = (
                [*self._barred] if allow_tf32 else [*self._barred, notes.TENSOR_CORE]
            )
        except Exception as error:
            reason = f"cuDNN does not accept the card's description: {_said(error)}"
            raise CudnnUnavailableError(reason) from error

    def workspaces(self, convolution: Convolution) -> tuple[int, ...]:
        """Workspace bytes of each plan that builds, in the order in which PyTorch tries them.

        Returns:
            One size per plan; empty if cuDNN has no plan.

        Raises:
            UnansweredError: cuDNN fails with an error other than having no plan.
        """
        try:
            return tuple(size for _, _, size in self._plans(convolution))
        except Exception as error:
            raise UnansweredError(_said(error)) from error

    def _place(self, card: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments that set the card of a graph."""
        return {"device_property": self._cudnn.create_device_properties(json.dumps(card))}

    def _plans(self, convolution: Convolution) -> Iterator[tuple[Any, int, int]]:
        """The graph, the index and the workspace of each plan that builds."""
        wide = convolution.widened()
        graph = self._graph(wide, _DATA_TYPES[wide.dtype])
        modes = self._cudnn.heur_mode
        try:
            graph.validate()
            graph.build_operation_graph()
            graph.create_execution_plans([modes.A, modes.FALLBACK])
        except self._cudnn.cudnnGraphNotSupportedError:
            return
        is_fp32 = wide.dtype == "float32"
        graph.deselect_numeric_notes(self._barred_for_fp32 if is_fp32 else self._barred)
        for index in range(graph.get_execution_plan_count()):
            size = self._built(graph, index)
            if size is not None:
                yield graph, index, self._on_a_real_card(convolution, graph, index, size)

    def _on_a_real_card(self, convolution: Convolution, graph: Any, index: int, size: int) -> int:
        """The workspace of a plan on a card that is there, where that was measured (slices.py)."""
        if self._capability != MEASURED_CAPABILITY or self.version // 100 != MEASURED_CUDNN:
            return size
        return real_bytes(convolution, str(graph.get_plan_name_at_index(index)), size)

    def _built(self, graph: Any, index: int) -> int | None:
        try:
            graph.build_plan_at_index(index)
        except (RuntimeError, self._cudnn.cudnnGraphNotSupportedError):
            return None  # excluded, or listed by the heuristics but not buildable
        size: int = graph.get_workspace_size_plan_at_index(index)
        return size

    def _graph(self, convolution: Convolution, data_type: str) -> Any:
        types = self._cudnn.data_type
        dtype = getattr(types, data_type)
        graph = self._cudnn.pygraph(
            io_data_type=dtype,
            intermediate_data_type=types.FLOAT,
            compute_data_type=types.FLOAT,
            **self._where,
        )

        def tensor(size: tuple[int, ...]) -> Any:
            layout = strides(size, channels_last=convolution.channels_last)
            return graph.tensor(dim=size, stride=layout, data_type=dtype)

        moves = {
            "padding": convolution.padding,
            "stride": convolution.stride,
            "dilation": convolution.dilation,
        }
        match convolution.direction:
            case Direction.FORWARD:
                size = convolution.output_size
                result = graph.conv_fprop(
                    image=tensor(convolution.input_size),
                    weight=tensor(convolution.weight_size),
                    **moves,
                )
            case Direction.DATA_GRADIENT:
                size = convolution.input_size
                result = graph.conv_dgrad(
                    loss=tensor(convolution.output_size),
                    filter=tensor(convolution.weight_size),
                    **moves,
                )
            case Direction.WEIGHT_GRADIENT:
                size = convolution.weight_size
                result = graph.conv_wgrad(
                    image=tensor(convolution.input_size),
                    loss=tensor(convolution.output_size),
                    **moves,
                )
        result.set_dim(size).set_stride(strides(size, channels_last=convolution.channels_last))
        result.set_output(True).set_data_type(dtype)
        return graph


def described_card(capability: tuple[int, int]) -> tuple[tuple[int, int], dict[str, Any]]:
    """Find the description of a card for cuDNN.

    Returns:
        The described compute capability and the description. The capability is the requested one,
        or the nearest older one with the same major number: code for 8.6 runs on 8.7.

    Raises:
        CudnnUnavailableError: No card with this major number is described.
    """
    data = json.loads(_PROPERTIES.read_text(encoding="utf-8"))
    known = {
        (int(major), int(minor)): card["properties"]
        for name, card in data["cards"].items()
        for major, _, minor in [name.partition(".")]
    }
    older = [each for each in known if each[0] == capability[0] and each <= capability]
    if not older:
        raise CudnnUnavailableError(
            f"no card of compute capability {capability[0]}.{capability[1]} is described"
        )
    return max(older), {**data["of every card"]["properties"], **known[max(older)]}


def _said(error: Exception) -> str:
    """Format an exception in one line, with its type if the message may not be enough."""
    words = " ".join(str(error).split())
    if isinstance(error, RuntimeError | OSError | ImportError) and words:
        return words
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def _load() -> Any:
    """Import the package, which uses the library that torch has loaded, or imports torch for it.

    All exceptions of the package count as an unavailable cuDNN: it looks for libraries with
    assertions, and reads attributes that some builds of its extension lack.
    """
    try:
        import cudnn  # noqa: PLC0415 - optional
    except ModuleNotFoundError as error:
        raise CudnnUnavailableError("the package nvidia-cudnn-frontend is not installed") from error
    except Exception as error:
        raise CudnnUnavailableError(f"cuDNN does not load: {_said(error)}") from error
    if not hasattr(cudnn, "create_device_properties"):
        raise CudnnUnavailableError("the package nvidia-cudnn-frontend is too old")
    try:
        cudnn.backend_version()
    except RuntimeError as error:  # "Unable to find symbol cudnnGetVersion"
        raise CudnnUnavailableError("the cuDNN library is not installed") from error
    except Exception as error:
        raise CudnnUnavailableError(f"cuDNN does not load: {_said(error)}") from error
    return cudnn
