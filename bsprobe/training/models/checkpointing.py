"""Activation checkpointing of any network: the choice of modules that are recomputed.

The modules are chosen in this order:

1. `--checkpoint-blocks` names the modules. Modules inside a named one are not checkpointed again.
2. A network, or a part of one, with a method for it uses this method: `set_grad_checkpointing`
   (timm) or `gradient_checkpointing_enable` (transformers), unless the method raises.
3. DeepLabV2 and torchvision's ResNets and MobileNets: each residual block.
4. Any other network: its repeated blocks, the outermost first. A block is a module with children,
   none of them of its own class, whose class occurs at least twice in the network. A block with
   more than a third of the network's layers is replaced by the blocks inside it, if there are
   several.
5. An `nn.Sequential` of bare layers is a block if its parent has another such child. One with at
   least eight layers and more than a third of the network's runs in segments, as in
   `torch.utils.checkpoint.checkpoint_sequential`: n layers in about sqrt(n) segments.

Layers (modules of torch.nn, and others without children) and the network itself are never blocks.
"""

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any, Final

from torch import nn
from torch.utils.checkpoint import checkpoint

from bsprobe.records.checkpointing import Checkpointed, CheckpointWay, parsed_patterns
from bsprobe.records.errors import UsageError
from bsprobe.training.models.deeplabv2 import Bottleneck, DeepLabV2

_CONTAINERS: Final = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_OF_TORCH: Final = (
    nn.Transformer,
    nn.TransformerEncoder,
    nn.TransformerDecoder,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
)
"""Modules of torch.nn that are not layers."""
_LAYERS: Final = ("torch.nn.", "torch.ao.", "torch.jit.")
"""Modules of these packages are layers, also those with children, such as attention."""
_LARGE: Final = 1 / 3
"""Recomputing more than this share of a network's layers at once saves little memory."""
_FEWEST_IN_SEGMENTS: Final = 8
_NAMED: Final = 8
"""Number of module names that an error lists."""
_NO_METHOD: Final = (AssertionError, NotImplementedError, ValueError)
"""Raised by the methods of networks that do not support checkpointing."""


_Chosen = tuple[nn.Module, CheckpointWay]


def apply_checkpointing(model: nn.Module, patterns: str | None) -> None:
    """Make the blocks of a network recompute their activations in the backward pass.

    Args:
        model: The network, changed in place.
        patterns: The value of `--checkpoint-blocks`; None for the rules of this module.

    Raises:
        UsageError: The network has no blocks, or a pattern matches none of its modules.
    """
    for module, way in _chosen(model, patterns):
        if way is CheckpointWay.BLOCK:
            module.forward = functools.partial(_run_block, module.forward)
        elif way is CheckpointWay.SEGMENTS:
            segments = _segments(list(module.children()))
            module.forward = functools.partial(_run_segments, segments)


def checkpointed_parts(model: nn.Module, patterns: str | None) -> tuple[Checkpointed, ...]:
    """The modules that `apply_checkpointing` changes, siblings abbreviated as `PARENT.*`.

    Raises:
        UsageError: As in `apply_checkpointing`.
    """
    names = {module: name for name, module in model.named_modules()}
    ways = dict(_chosen(model, patterns))
    blocks = {module for module, way in ways.items() if way is CheckpointWay.BLOCK}
    short = {
        child: f"{name}.*" if name else "*"
        for name, module in model.named_modules()
        if len(children := list(module.children())) > 1 and blocks.issuperset(children)
        for child in children
    }
    found = (
        Checkpointed(modules=short.get(module, names[module]), way=way)
        for module, way in ways.items()
    )
    return tuple(dict.fromkeys(found))


def _chosen(model: nn.Module, patterns: str | None) -> list[_Chosen]:
    """The modules to recompute. Modules with a method for it are switched on here."""
    if patterns is not None:
        return [(module, CheckpointWay.BLOCK) for module in _matching(model, patterns)]
    own = dict(_own_ways(model))
    chosen = [*own.items(), *_blocks(model, frozenset(own))]
    if not chosen:
        names = [name for name, _ in model.named_modules()]
        raise UsageError(
            "--checkpointing on: this network has no repeated blocks to checkpoint",
            hint="use --checkpointing off, or name modules: --checkpoint-blocks 'PATTERN'; its "
            "modules are " + _some(names),
        )
    return chosen


def _matching(model: nn.Module, patterns: str) -> list[nn.Module]:
    """The outermost modules that match. Lists of modules do not: they have no forward pass."""
    named = [
        (name, module)
        for name, module in model.named_modules()
        if name and not isinstance(module, nn.ModuleList | nn.ModuleDict)
    ]
    found: dict[str, nn.Module] = {}
    for pattern in parsed_patterns(patterns):
        matches = {name: module for name, module in named if fnmatchcase(name, pattern)}
        if not matches:
            raise UsageError(
                f"--checkpoint-blocks: '{pattern}' matches no module of this network",
                hint=f"its modules are {_some(name for name, _ in named)}",
            )
        found |= matches
    return [
        module
        for name, module in found.items()
        if not any(name.startswith(f"{other}.") for other in found)
    ]


def _some(names: Iterable[str]) -> str:
    """The first few names of modules, the outermost first."""
    known = sorted(filter(None, names), key=lambda name: name.count("."))
    more = f" and {len(known) - _NAMED} more" if len(known) > _NAMED else ""
    return ", ".join(known[:_NAMED]) + more


def _own_ways(module: nn.Module) -> Iterator[_Chosen]:
    """Call the checkpointing methods of the outermost modules that have one."""
    way = _own_way(module)
    if way is not None:
        yield module, way
        return
    for child in module.children():
        yield from _own_ways(child)


def _own_way(module: Any) -> CheckpointWay | None:
    """Call the checkpointing method of a module; None if it has none. Calling it twice is safe."""
    with suppress(*_NO_METHOD):
        if callable(getattr(module, CheckpointWay.TIMM, None)):
            module.set_grad_checkpointing(True)
            return CheckpointWay.TIMM
        not_reentrant = {"use_reentrant": False}
        if callable(getattr(module, CheckpointWay.TRANSFORMERS_LATER, None)):
            module.activation_checkpointing_enable(activation_checkpointing_kwargs=not_reentrant)
            return CheckpointWay.TRANSFORMERS_LATER
        if callable(getattr(module, CheckpointWay.TRANSFORMERS, None)):
            module.gradient_checkpointing_enable(gradient_checkpointing_kwargs=not_reentrant)
            return CheckpointWay.TRANSFORMERS
    return None


def _blocks(model: nn.Module, own: frozenset[nn.Module]) -> list[_Chosen]:
    """The blocks of a network outside the modules with a checkpointing method (`own`)."""
    if model in own:
        return []
    kinds = _residual_blocks(model)
    known = [module for module in model.modules() if isinstance(module, kinds)]
    if known:
        return [(module, CheckpointWay.BLOCK) for module in known]
    search = _Search(model, own)
    found = list(dict.fromkeys(search.found(model)))  # a shared module once
    if not found and type(model) is nn.Sequential and search.runs_in_segments(model):
        return [(model, CheckpointWay.SEGMENTS)]
    is_alone = [way for _, way in found] == [CheckpointWay.BLOCK] and not own
    return [] if is_alone else found


def _residual_blocks(model: nn.Module) -> tuple[type[nn.Module], ...]:
    """The classes of the residual blocks of DeepLabV2 and of torchvision's networks."""
    if isinstance(model, DeepLabV2):
        return (Bottleneck,)
    if not type(model).__module__.startswith("torchvision.models."):
        return ()
    from torchvision.models import mobilenetv2, mobilenetv3, resnet  # noqa: PLC0415 - takes seconds; DeepLabV2 needs none of it

    return (
        resnet.Bottleneck,
        resnet.BasicBlock,
        mobilenetv2.InvertedResidual,
        mobilenetv3.InvertedResidual,
    )


class _Search:
    """Finds the repeated blocks of a network outside the modules with a checkpointing method."""

    def __init__(self, model: nn.Module, own: frozenset[nn.Module]) -> None:
        self._own = own
        self._layers = _layers_in(model)
        self._times = Counter(type(each) for each in model.modules() if not _holds_its_kind(each))

    def found(self, module: nn.Module) -> list[_Chosen]:
        """The blocks inside a module."""
        found: list[_Chosen] = []
        chains: list[nn.Sequential] = []
        for child in module.children():
            if child in self._own or _is_layer(child):
                continue
            is_block = self._is_repeated(child)
            inside = [] if is_block and not self._is_large(child) else self.found(child)
            if is_block and len(inside) <= 1:
                found.append((child, CheckpointWay.BLOCK))
            elif inside:
                found += inside
            elif type(child) is nn.Sequential:
                chains.append(child)
        return found + self._of_chains(chains)

    def runs_in_segments(self, chain: nn.Sequential) -> bool:
        """True if a sequence has many layers, and a large share of the network's."""
        return self._is_large(chain) and len(chain) >= _FEWEST_IN_SEGMENTS

    def _of_chains(self, chains: Sequence[nn.Sequential]) -> list[_Chosen]:
        """The blocks among the sequences of bare layers of one parent."""
        found: list[_Chosen] = []
        for chain in chains:
            if self.runs_in_segments(chain):
                found.append((chain, CheckpointWay.SEGMENTS))
            elif len(chains) > 1 and len(chain) > 1 and any(True for _ in chain.parameters()):
                found.append((chain, CheckpointWay.BLOCK))
        return found

    def _is_repeated(self, module: nn.Module) -> bool:
        if type(module) in _CONTAINERS or _holds_its_kind(module):
            return False
        is_whole = self._own.isdisjoint(module.modules())
        return is_whole and self._times[type(module)] > 1

    def _is_large(self, module: nn.Module) -> bool:
        return _layers_in(module) > _LARGE * self._layers


def _is_layer(module: nn.Module) -> bool:
    """True if a module has no children or is of torch.nn, containers and transformers excepted."""
    if type(module) in _CONTAINERS or isinstance(module, _OF_TORCH):
        return False
    has_children = any(True for _ in module.children())
    return not has_children or type(module).__module__.startswith(_LAYERS)


def _layers_in(module: nn.Module) -> int:
    """The number of layers in a module."""
    return sum(map(_is_layer, module.modules()))


def _holds_its_kind(module: nn.Module) -> bool:
    """True if a module holds another one of the same class."""
    return any(type(each) is type(module) for each in module.modules() if each is not module)


def _run_block(forward: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
    """Run a block that is recomputed in the backward pass.

    Lists are copied: the caller may append to them before the block is recomputed, as DenseNet
    does with its features.
    """
    now = [list(each) if isinstance(each, list) else each for each in inputs]
    return checkpoint(forward, *now, use_reentrant=False, **named)


def _segments(layers: Sequence[nn.Module]) -> list[list[nn.Module]]:
    """Split n layers into about sqrt(n) segments.

    A segment does not begin with an in-place layer, which would change the saved input.
    """
    size = round(math.sqrt(len(layers)))
    starts = [0]
    for place in range(size, len(layers)):
        if place - starts[-1] >= size and not getattr(layers[place], "inplace", False):
            starts.append(place)
    return [list(layers[start:end]) for start, end in pairwise([*starts, len(layers)])]


def _run_segments(segments: Sequence[Sequence[nn.Module]], x: Any) -> Any:
    """Run segments of layers. All but the last are recomputed: its backward pass comes first."""
    *recomputed, last = segments
    for layers in recomputed:
        x = checkpoint(_run_layers, layers, x, use_reentrant=False)
    return _run_layers(last, x)


def _run_layers(layers: Sequence[nn.Module], x: Any) -> Any:
    for layer in layers:
        x = layer(x)
    return x
