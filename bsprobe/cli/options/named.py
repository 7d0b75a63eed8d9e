"""Checks of the names in options, without PyTorch: networks, callables, devices, files.

The worker checks the same, but imports PyTorch first, which takes seconds.
"""

import difflib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from bsprobe.cli.options.script import require_program
from bsprobe.records.device_kind import DeviceKind, check_cpu_limit
from bsprobe.records.errors import FileError, UsageError
from bsprobe.records.gpus import check_limit
from bsprobe.records.matrix import require_taken
from bsprobe.records.printable import shell_word
from bsprobe.records.runs import DeviceRequest, Settings
from bsprobe.records.trials import DataSource
from bsprobe.records.variants import Variant, unknown_value
from bsprobe.records.workload import (
    BUILT_IN,
    HUGGING_FACE,
    MODEL_FORMS,
    SMP,
    TIMM,
    TORCHVISION,
    is_factory,
    package_of,
    without_package,
)
from bsprobe.storage.files import file_errors
from bsprobe.storage.library_names import (
    is_former_timm_name,
    is_installed,
    timm_networks,
    torchvision_networks,
)
from bsprobe.storage.source_names import callables_hint, require_arguments, require_callable


def require_there(settings: Settings) -> None:
    """Check the names in the settings of a run.

    Raises:
        UsageError: A network, a callable or a device does not exist.
        FileError: The images do not exist.
    """
    require_device(settings.device)
    if settings.script is not None:
        require_program(settings.script)
        return
    require_named(settings.variants)
    require_images(settings.data)


def require_named(variants: Iterable[Variant]) -> None:
    """Check the names of networks, losses, optimizers and batches.

    Raises:
        UsageError: A name is unknown; the hint suggests the nearest.
    """
    named: dict[tuple[str, str], None] = {}
    for variant in variants:
        own = variant.own
        _require_model(variant.model)
        if is_factory(variant.model):
            # num_classes is also the number of label classes; the factory need not take it.
            require_arguments(variant.model, set(own.arguments) - {"num_classes"})
        require_taken(variant)
        for option, name in (
            ("--loss", own.own_loss),
            ("--optimizer-from", own.optimizer),
            ("--batch-from", own.batches),
        ):
            if name is not None:
                named[option, name] = None
    for option, name in named:
        require_callable(option, name)


def require_device(asked: DeviceRequest) -> None:
    """Check the name and the memory limit of a device.

    Raises:
        UsageError: The name is not `cpu`, `cuda` or `cuda:N`.
        DeviceError: The memory limit leaves nothing for training.
    """
    name = asked.device
    if name is not None and re.fullmatch(r"cpu|cuda(:\d+)?", name) is None:
        raise UsageError(f"--device: '{name}' is unknown", hint="choose cpu, cuda or cuda:N")
    for limit in (asked.memory_limit_bytes, *asked.rank_limits_bytes):
        if limit is not None and asked.gpu is not None:
            check_limit(asked.gpu, limit)
        elif limit is not None and name == DeviceKind.CPU:
            check_cpu_limit(limit)


def require_images(source: DataSource | None, splits: Sequence[str] = ("train",)) -> None:
    """Check that a folder has the layout of Cityscapes and the splits.

    Raises:
        FileError: The layout differs, or files are missing.
    """
    if source is None:
        return
    root = Path(source.root)
    with file_errors(root):
        is_folder = root.is_dir()
    if not is_folder:
        raise FileError(
            f"--data: {root} {'is a file, not a folder' if root.exists() else 'does not exist'}",
            hint="give the folder that holds leftImg8bit/ and gtFine/, or draw one with "
            "`bsprobe sample-data DIR`",
        )
    from bsprobe.training.cityscapes.samples import Split, list_split  # imports numpy and Pillow

    require_label_ids(root)
    for split in splits:
        for problem in list_split(root, Split(split)).problems:
            error = problem.as_error()
            more = f"`bsprobe data {shell_word(source.root)}` lists all problems"
            raise FileError(str(error), hint=f"{error.hint}; {more}")


def require_label_ids(root: Path) -> None:
    """Reject a data set that has labels by train id only.

    Raises:
        FileError: There are no labels by label id; the hint says how to make them.
    """
    labels = root / "gtFine"
    with file_errors(root):
        by_train_id = next(labels.glob("*/*/*_gtFine_labelTrainIds.png"), None)
        by_id = next(labels.glob("*/*/*_gtFine_labelIds.png"), None)
    if by_train_id is None or by_id is not None:
        return
    wanted = by_train_id.name.replace("_labelTrainIds.png", "_labelIds.png")
    raise FileError(
        f"{labels} has labels by train id only; {wanted} is missing beside {by_train_id.name}",
        hint="get the labels from gtFine_trainvaltest.zip of Cityscapes, or make each from its "
        "*_polygons.json: python -m cityscapesscripts.preparation.json2labelImg IN.json OUT.png",
    )


def require_file(option: str, path: Path) -> None:
    """Check that a file exists.

    Raises:
        FileError: It does not exist or is a folder.
    """
    with file_errors(path):
        if path.is_file():
            return
        what = "is not a regular file" if path.exists() else "does not exist"
        if path.is_dir():
            what = "is a folder, not a file"
    there = {each.name for each in path.absolute().parent.glob(f"*{path.suffix}")} - {path.name}
    near = difflib.get_close_matches(path.name, sorted(there), n=1)
    hint = f"did you mean {path.parent / near[0]}?" if near else "give the path of a file"
    raise FileError(f"{option}: {path} {what}", hint=hint)


def _require_model(name: str) -> None:
    if is_factory(name):
        require_callable("--model", name)
    elif name.startswith(TORCHVISION):
        _require_known(name, name, [TORCHVISION + each for each in torchvision_networks()])
    elif name.startswith(SMP):
        _require_package(SMP)
    elif name.startswith(HUGGING_FACE):
        require_file(f"--model {name}", Path(name.removeprefix(HUGGING_FACE)))
        _require_package(HUGGING_FACE)
    elif name.startswith(TIMM):
        _require_package(TIMM)
        architecture, _, _ = name.partition(".")  # the rest names weights
        if not is_former_timm_name(architecture.removeprefix(TIMM)):
            _require_known(name, architecture, [TIMM + each for each in timm_networks()])
    elif ":" not in name and name not in BUILT_IN:
        raise _unknown_network(name)


def _require_package(prefix: str) -> None:
    if not is_installed(package_of(prefix)):
        raise without_package(prefix)


def _require_known(name: str, architecture: str, known: Sequence[str]) -> None:
    if known and architecture not in known:
        raise unknown_value("--model", name, known)


def _unknown_network(name: str) -> UsageError:
    """The error for a name that is no built-in network; suggests a library or a callable."""
    is_file = name.endswith(".py") or os.sep in name
    is_module = os.path.isfile(f"{name}.py")  # noqa: PTH113 - Path.is_file raises if the name is too long
    hint = callables_hint(name) if is_file or is_module else None
    if hint is not None:
        return UsageError(
            f"--model: '{name}' lacks the name of a callable or network",
            hint=f"give {name}:FACTORY; {hint}",
        )
    for prefix, known in ((TORCHVISION, torchvision_networks), (TIMM, timm_networks)):
        if name in known():
            return UsageError(
                f"--model: '{name}' is unknown", hint=f"did you mean {shell_word(prefix + name)}?"
            )
    if is_file:
        what = "is no Python file with a factory" if os.path.exists(name) else "does not exist"  # noqa: PTH110 - as above
        return UsageError(f"--model: {name} {what}", hint="give FILE.py:FACTORY")
    return unknown_value("--model", name, MODEL_FORMS)
