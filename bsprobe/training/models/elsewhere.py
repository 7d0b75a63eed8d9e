"""Networks of other packages: torchvision, timm, segmentation_models_pytorch, transformers.

Only torchvision is required. A package is imported when one of its networks is named.
"""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from torch import nn

from bsprobe.records.errors import UsageError
from bsprobe.records.units import Resolution
from bsprobe.records.variants import RGB, Variant, unknown_value
from bsprobe.records.workload import (
    HUGGING_FACE,
    SMP,
    TIMM,
    TORCHVISION,
    Problem,
    package_of,
    problem_of,
    without_package,
)
from bsprobe.storage.codec import parse_json
from bsprobe.storage.files import read_limited

_WITH_AUXILIARY = ("googlenet", "inception_v3")
_TASKS: Final = ("SEMANTIC_SEGMENTATION", "IMAGE_CLASSIFICATION")
"""Tables of transformers, searched in this order if a configuration names no class."""


def prefix_of(model: str) -> str:
    """The prefix of a model's name, which selects the package: `timm:`."""
    return model[: model.index(":") + 1]


def check_name(model: str) -> None:
    """Require that a package has a model of this name, and import the package.

    Raises:
        UsageError: The package is not installed, or has no such model; the hint names the nearest.
    """
    prefix = prefix_of(model)
    name = model.removeprefix(prefix)
    if prefix == HUGGING_FACE:
        _configuration(name, {})
        return
    if prefix == TIMM and _package(TIMM).is_model(name):  # `list_models` leaves old names out
        return
    known = [prefix + each for each in _NAMES[prefix]()]
    if model not in known:
        raise unknown_value("--model", model, known)


def build(variant: Variant) -> nn.Module:
    """Build a network of another package; its norms are not changed."""
    model = _BUILDERS[prefix_of(variant.model)](variant)
    assert isinstance(model, nn.Module)  # noqa: S101 - these packages are not typed
    return model


def own_size(model: str) -> Resolution | None:
    """The size of the images that a classifier is built for; None if it is not known.

    Source: the crop of torchvision's weights, the input size in the configurations of timm and
    transformers.
    """
    prefix = prefix_of(model)
    name = model.removeprefix(prefix)
    if prefix == TORCHVISION:
        from torchvision import models  # noqa: PLC0415 - as above

        weights = models.get_model_weights(name)
        sizes = weights.DEFAULT.transforms().crop_size if len(weights) else ()
    elif prefix == TIMM:
        settings = _package(TIMM).get_pretrained_cfg(name)
        sizes = settings.input_size[1:] if settings is not None else ()
    else:
        sizes = _image_size(_configuration(name, {}))
    if not sizes:
        return None
    return Resolution(height=int(sizes[0]), width=int(sizes[-1]))


def _package(prefix: str) -> ModuleType:
    module = package_of(prefix)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise without_package(prefix) from error


def _torchvision_names() -> list[str]:
    """The names of torchvision's networks for classification and segmentation of images."""
    from torchvision import models  # noqa: PLC0415 - takes seconds; DeepLabV2 needs none of it

    return [*models.list_models(module=models), *models.list_models(module=models.segmentation)]


def _smp_names() -> list[str]:
    names = _package(SMP).MODEL_ARCHITECTURES_MAPPING
    return [each.__name__ for each in names.values()]


_NAMES: Final = {
    TORCHVISION: _torchvision_names,
    TIMM: lambda: _package(TIMM).list_models(),
    SMP: _smp_names,
}


def _torchvision(variant: Variant) -> Any:
    from torchvision import models  # noqa: PLC0415 - as above

    name = variant.model.removeprefix(TORCHVISION)
    arguments: dict[str, Any]
    if problem_of(variant.model) is Problem.SEGMENTATION:
        arguments = {"weights_backbone": None, **_auxiliary(name)}
    else:
        arguments = _classifier_arguments(name, variant)
    arguments |= {"num_classes": variant.logits, **variant.own.arguments}
    return models.get_model(name, weights=None, **arguments)


def _auxiliary(name: str) -> dict[str, Any]:
    """Switch the auxiliary loss on, as torchvision's recipes do; LRASPP has none."""
    return {} if name.startswith("lraspp") else {"aux_loss": True}


def _classifier_arguments(name: str, variant: Variant) -> dict[str, Any]:
    """Arguments of some classifiers: the image size, and that they have one output."""
    if name in _WITH_AUXILIARY:
        return {"aux_logits": False, "init_weights": True}
    if variant.resolution is None:
        return {}
    height, width = variant.resolution.height, variant.resolution.width
    if name.startswith("vit_"):
        if height != width:
            raise UsageError(
                f"--resolution {height}x{width}: {variant.model} takes square images only",
                hint=f"give --resolution {height}x{height}, for example",
            )
        return {"image_size": height}
    if name == "maxvit_t":
        return {"input_size": (height, width)}
    return {}


def _timm(variant: Variant) -> Any:
    """Build for the resolution of the variant, on which some networks depend."""
    arguments: dict[str, Any] = {"num_classes": variant.logits}
    if variant.channels != RGB:
        arguments["in_chans"] = variant.channels
    if variant.resolution is not None:
        size = (variant.channels, variant.resolution.height, variant.resolution.width)
        arguments["pretrained_cfg_overlay"] = {"input_size": size}
    arguments |= variant.own.arguments
    name = variant.model.removeprefix(TIMM)
    return _package(TIMM).create_model(name, pretrained=False, **arguments)


def _smp(variant: Variant) -> Any:
    arguments = dict(variant.own.arguments)
    classes = arguments.pop("num_classes", variant.logits)
    offered = {"encoder_weights": None, "in_channels": variant.channels, "classes": classes}
    name = variant.model.removeprefix(SMP)
    return _package(SMP).create_model(name, **{**offered, **arguments})


def _configuration(path: str, arguments: dict[str, Any]) -> Any:
    """Read a configuration of transformers from a local file."""
    file = Path(path)
    try:
        content = parse_json(read_limited(file))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--model {HUGGING_FACE}{path}: {getattr(error, 'strerror', None) or error}",
            hint="give the config.json of a model, as transformers writes it",
        ) from error
    kind = content.pop("model_type", None) if isinstance(content, dict) else None
    if not isinstance(kind, str):
        raise UsageError(
            f"--model {HUGGING_FACE}{path}: the file has no model_type",
            hint="give the config.json of a model, as transformers writes it",
        )
    if "num_classes" in arguments:
        arguments["num_labels"] = arguments.pop("num_classes")
    if "num_labels" in arguments:
        content.pop("id2label", None)
        content.pop("label2id", None)
    transformers = _package(HUGGING_FACE)
    try:
        return transformers.AutoConfig.for_model(kind, **{**content, **arguments})
    except (ValueError, KeyError) as error:
        raise UsageError(
            f"--model {HUGGING_FACE}{path}: {str(error).splitlines()[0]}",
            hint=f"the installed version of transformers is {transformers.__version__}",
        ) from error


def _image_size(configuration: Any) -> tuple[int, ...]:
    """The size of the images of a classifier; () for other networks, which take any size."""
    architecture = _architecture(configuration)
    if architecture is None or "ImageClassification" not in architecture.__name__:
        return ()
    found = getattr(configuration, "image_size", ())
    return (found,) if isinstance(found, int) else tuple(found)


def _architecture(configuration: Any) -> type[Any] | None:
    """The class that a configuration names, else its class for segmentation or classification."""
    transformers = _package(HUGGING_FACE)
    for name in configuration.architectures or ():
        if hasattr(transformers, name):
            named: type[Any] = getattr(transformers, name)
            return named
    for task in _TASKS:
        known = getattr(transformers, f"MODEL_FOR_{task}_MAPPING")
        if type(configuration) in known:
            found: type[Any] = known[type(configuration)]
            return found
    return None


def _hugging_face(variant: Variant) -> Any:
    """Build the architecture of a configuration."""
    path = variant.model.removeprefix(HUGGING_FACE)
    arguments = dict(variant.own.arguments)
    if variant.channels != RGB:
        arguments.setdefault("num_channels", variant.channels)
    configuration = _configuration(path, arguments)
    architecture = _architecture(configuration)
    if architecture is not None:
        return architecture(configuration)
    raise UsageError(
        f"--model {variant.model}: transformers has no architecture of this configuration for "
        "segmentation or classification",
        hint='add "architectures": ["NAME"] to the file',
    )


_BUILDERS: Final = {
    TORCHVISION: _torchvision,
    TIMM: _timm,
    SMP: _smp,
    HUGGING_FACE: _hugging_face,
}
