"""Names of the networks of torchvision and timm, read from their source text.

Importing these packages takes seconds. Both decorate each function that builds a network with
`@register_model`.
"""

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

_REGISTERED = re.compile(
    rb"^@register_model(?:\((?:name=[\"'](?P<name>\w+)[\"'])?[^)]*\))?[ ]*\n"
    rb"(?:@.*\n(?:[ \t)].*\n)*)*"  # other decorators, with their arguments
    rb"def (?P<function>\w+)",
    re.MULTILINE,
)


def torchvision_networks() -> tuple[str, ...]:
    """Return the classification and segmentation networks; empty if none can be found."""
    return _registered("torchvision", ("models/*.py", "models/segmentation/*.py"))


def timm_networks() -> tuple[str, ...]:
    """Return timm's networks; empty if none can be found."""
    return _registered("timm", ("models/*.py",))


def is_former_timm_name(name: str) -> bool:
    """Return whether timm's source has a name in quotes, as it has names of earlier versions."""
    quoted = (f"'{name}'".encode(), f'"{name}"'.encode())
    texts = (path.read_bytes() for path in _files("timm", ("models/*.py",)))
    return any(each in text for text in texts for each in quoted)


def is_installed(package: str) -> bool:
    """Return whether a package can be found."""
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):  # a finder refuses, or the module has no spec
        return False


def _registered(package: str, patterns: Sequence[str]) -> tuple[str, ...]:
    found = {
        (match["name"] or match["function"]).decode()
        for path in _files(package, patterns)
        for match in _REGISTERED.finditer(path.read_bytes())
    }
    return tuple(sorted(found))


def _files(package: str, patterns: Sequence[str]) -> list[Path]:
    if not is_installed(package):
        return []
    spec = find_spec(package)
    folders = () if spec is None else spec.submodule_search_locations or ()
    return [path for each in folders for pattern in patterns for path in Path(each).glob(pattern)]
