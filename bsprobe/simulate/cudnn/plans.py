"""cuDNN asked, without a GPU, which plans it has for a convolution and what workspace each needs.

Since 9.8 cuDNN makes plans for a card that is described to it (`device_properties.json`) instead of
the one in the machine. The question is put as aten/src/ATen/native/cudnn/Conv_v8.cpp puts it
(PyTorch 2.6 to 2.10): one operation, computed in fp32, heuristic mode A (CUDNN_HEUR_MODE_INSTANT),
after it the fallback list; plans that convert their inputs down are passed over, so are tensor
cores for fp32 where TF32 is off, and what is not deterministic where that is asked for. What a real
card of 9.0 takes instead of a described one was measured (slices.py).
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from bsprobe.simulate.cudnn.convolutions import Convolution, Direction, strides, version_text
from bsprobe.simulate.cudnn.pointwise import MEASURED_CAPABILITY
from bsprobe.simulate.cudnn.slices import MEASURED_CUDNN, real_bytes

OLDEST_CUDNN: Final = 90800
"""The first with CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR (release notes of cuDNN 9.8)."""
FIRST_WITHOUT_VOLTA: Final = 91100
"""From 9.11 on cuDNN has no kernels for Maxwell, Pascal and Volta (support matrix); asked all the
same it names its few general ones, which is not what a Volta runs with an older cuDNN."""
OLDEST_SINCE_THEN: Final = (7, 5)

_PROPERTIES: Final = Path(__file__).with_name("device_properties.json")
_DATA_TYPES: Final = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BFLOAT16"}


class CudnnUnavailableError(Exception):
    """cuDNN cannot be asked; the message says why, as the end of a sentence."""


class UnsupportedCardError(CudnnUnavailableError):
    """This cuDNN has no plans for the card; others have."""


class UnansweredError(Exception):
    """cuDNN failed at a question, other than by having no plan."""


class CudnnPlans:
    """cuDNN's plans for one card.

    Attributes:
        version: cuDNN's own, as it counts: 91002 is 9.10.2.
    """

    def __init__(self, card: Mapping[str, Any], *, allow_tf32: bool, deterministic: bool) -> None:
        """Describe a card to cuDNN.

        Args:
            card: Its description, as `described_card` gives it.
            allow_tf32: Whether fp32 may use tensor cores.
            deterministic: Whether plans that may sum in another order each time are left out.

        Raises:
            CudnnUnavailableError: The package or the library is missing or too old, or has no
                plans for this card.
        """
        self._cudnn = _load()
        self.version: int = self._cudnn.backend_version()
        if self.version < OLDEST_CUDNN:
            raise CudnnUnavailableError(
                f"cuDNN {version_text(self.version)} cannot plan for a card that is not there "
                f"({version_text(OLDEST_CUDNN)} can)"
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
            raise CudnnUnavailableError(f"cuDNN refuses the description: {_said(error)}") from error

    def workspaces(self, convolution: Convolution) -> tuple[int, ...]:
        """Bytes of each plan that builds, in the order in which PyTorch tries them; () if none is.

        Raises:
            UnansweredError: cuDNN fails, other than by having no plan.
        """
        try:
            return tuple(size for _, _, size in self._plans(convolution))
        except Exception as error:
            raise UnansweredError(_said(error)) from error

    def _place(self, card: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments that tell cuDNN which card a graph is for."""
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
            return None  # barred, or one of those that the heuristics name and that do not build
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
    """The compute capability that stands in for one, and the card that describes it to cuDNN.

    The same, or the nearest older one of the same major number: code for 8.6 runs on 8.7.

    Raises:
        CudnnUnavailableError: No card of this major number is described.
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
    """An exception in one line, with its type where the message alone does not tell what failed."""
    words = " ".join(str(error).split())
    if isinstance(error, RuntimeError | OSError | ImportError) and words:
        return words
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def _load() -> Any:
    """Import the package; it finds the library that torch has loaded, or imports torch to load it.

    No failure of the package, of whatever type, is one of the prediction: it looks for libraries
    with assertions, and reads attributes that other builds of its extension lack.
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
