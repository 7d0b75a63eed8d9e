"""Activation checkpointing of any network: which modules recompute their inside, and how.

The rule, in this order:

1. `--checkpoint-blocks` names the modules. Within a module that it names nothing else is named.
2. A network, or a part of one, that has a method for it uses its own: `set_grad_checkpointing`
   (timm) or `gradient_checkpointing_enable` (transformers). What refuses is treated as any other.
3. In DeepLabV2 and torchvision's ResNets and MobileNets: each residual block, nothing else.
4. In any other network, from the outside inwards, the repeated blocks. A block is a module that is
   made of others and whose class occurs at least twice in the network, within none of its own
   kind. A block that holds more than a third of the network's layers is looked into first: it is
   taken as a whole only where there are no blocks inside.
5. An `nn.Sequential` of bare layers is a block where its parent has another such child. One with
   more than a third of the network's layers, and eight at least, runs in segments instead, as
   `torch.utils.checkpoint.checkpoint_sequential` does it: about as many as layers in each.

Layers themselves, torch.nn's and others without children, are never blocks, nor is the network.
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
"""Modules of torch.nn that are no layers."""
_LAYERS: Final = ("torch.nn.", "torch.ao.", "torch.jit.")
"""Modules of these packages are layers, whatever they consist of: attention has a projection, and
a parametrized convolution its parametrizations."""
_LARGE: Final = 1 / 3
"""The share of a network's layers from which recomputing them at once saves little."""
_FEWEST_IN_SEGMENTS: Final = 8
_NAMED: Final = 8
"""Module names that an error lists."""
_NO_METHOD: Final = (AssertionError, NotImplementedError, ValueError)
"""Raised by the methods of networks that do not support it."""


_Chosen = tuple[nn.Module, CheckpointWay]


def apply_checkpointing(model: nn.Module, patterns: str | None) -> None:
    """Make the blocks of a network recompute their inside in the backward pass.

    Args:
        model: Changed in place.
        patterns: Those of `--checkpoint-blocks`; None: by the rule of this module.

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
    """The modules that `apply_checkpointing` has changed, or would change, in short.

    Raises:
        UsageError: As there.
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
    """The modules to recompute; those that have a way of their own are switched on."""
    if patterns is not None:
        return [(module, CheckpointWay.BLOCK) for module in _matching(model, patterns)]
    own = dict(_own_ways(model))
    chosen = [*own.items(), *_blocks(model, frozenset(own))]
    if not chosen:
        names = [name for name, _ in model.named_modules()]
        raise UsageError(
            "--checkpointing on: this network has no blocks to checkpoint, nothing that is "
            "repeated",
            hint="leave it off, or name modules: --checkpoint-blocks 'PATTERN'; there are "
            + _some(names),
        )
    return chosen


def _matching(model: nn.Module, patterns: str) -> list[nn.Module]:
    """The outermost modules that the patterns name; lists of modules are never run themselves."""
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
    """A few names of modules, the outermost first."""
    known = sorted(filter(None, names), key=lambda name: name.count("."))
    more = f" and {len(known) - _NAMED} more" if len(known) > _NAMED else ""
    return ", ".join(known[:_NAMED]) + more


def _own_ways(module: nn.Module) -> Iterator[_Chosen]:
    """The outermost modules that have a method for it, after it was called."""
    way = _own_way(module)
    if way is not None:
        yield module, way
        return
    for child in module.children():
        yield from _own_ways(child)


def _own_way(module: Any) -> CheckpointWay | None:
    """Switch a module's own checkpointing on, which may be done again; None where it has none."""
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
    """The blocks of a network outside the modules that have a way of their own."""
    if model in own:
        return []
    kinds = _residual_blocks(model)
    known = [module for module in model.modules() if isinstance(module, kinds)]
    if known:
        return [(module, CheckpointWay.BLOCK) for module in known]
    search = _Search(model, own)
    found = list(dict.fromkeys(search.found(model)))  # a module that is shared comes once
    if not found and type(model) is nn.Sequential and search.runs_in_segments(model):
        return [(model, CheckpointWay.SEGMENTS)]
    is_alone = [way for _, way in found] == [CheckpointWay.BLOCK] and not own
    return [] if is_alone else found


def _residual_blocks(model: nn.Module) -> tuple[type[nn.Module], ...]:
    """The classes of residual blocks of networks that are known here."""
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
    """Finds the repeated blocks of a network, outside the modules that have a way of their own."""

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
        """True for many layers, and many of the network's."""
        return self._is_large(chain) and len(chain) >= _FEWEST_IN_SEGMENTS

    def _of_chains(self, chains: Sequence[nn.Sequential]) -> list[_Chosen]:
        """Sequences of bare layers with one parent."""
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
    """True for what is not made of other modules, or is torch.nn's own."""
    if type(module) in _CONTAINERS or isinstance(module, _OF_TORCH):
        return False
    has_children = any(True for _ in module.children())
    return not has_children or type(module).__module__.startswith(_LAYERS)


def _layers_in(module: nn.Module) -> int:
    """The number of layers in a module."""
    return sum(map(_is_layer, module.modules()))


def _holds_its_kind(module: nn.Module) -> bool:
    """True where another module of the same class is inside, as in networks that are nested."""
    return any(type(each) is type(module) for each in module.modules() if each is not module)


def _run_block(forward: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
    """Run a block that is recomputed from its inputs as they are now.

    A list may have grown by then, such as the features of a dense block.
    """
    now = [list(each) if isinstance(each, list) else each for each in inputs]
    return checkpoint(forward, *now, use_reentrant=False, **named)


def _segments(layers: Sequence[nn.Module]) -> list[list[nn.Module]]:
    """The layers of a sequence in about as many stretches as there are layers in each.

    A layer that works in place stays with the one before it: it would change what a stretch is
    recomputed from.
    """
    size = round(math.sqrt(len(layers)))
    starts = [0]
    for place in range(size, len(layers)):
        if place - starts[-1] >= size and not getattr(layers[place], "inplace", False):
            starts.append(place)
    return [list(layers[start:end]) for start, end in pairwise([*starts, len(layers)])]


def _run_segments(segments: Sequence[Sequence[nn.Module]], x: Any) -> Any:
    """Run stretches of layers, all but the last recomputed: that one's turn comes at once."""
    *recomputed, last = segments
    for layers in recomputed:
        x = checkpoint(_run_layers, layers, x, use_reentrant=False)
    return _run_layers(last, x)


def _run_layers(layers: Sequence[nn.Module], x: Any) -> Any:
    for layer in layers:
        x = layer(x)
    return x
