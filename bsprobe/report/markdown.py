"""Parts of markdown that all reports have."""

import re
from collections.abc import Sequence

from bsprobe.records.runs import DeviceInfo, Environment
from bsprobe.records.scripts import ScriptFacts
from bsprobe.records.units import format_bytes
from bsprobe.report.commands import quoted
from bsprobe.report.escaping import code_span, html, inline


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a markdown table: the first column left-aligned, the others right-aligned.

    Args:
        header: The headings.
        rows: Rows of as many cells; text is escaped unless it is `Markdown`.
    """
    first, *others = ([str(inline(cell)) for cell in row] for row in (header, *rows))
    lines = [first, ["---"] + ["--:"] * (len(header) - 1), *others]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def environment_section(
    device: DeviceInfo, environment: Environment, *, script: ScriptFacts | None = None
) -> str:
    """Return the machine, the versions and the command of a report.

    Args:
        device: The device.
        environment: The machine, and the versions that bsprobe runs with.
        script: The facts of a user's command, which has versions of its own; or None.
    """
    rows = [
        ("device", device.name),
        (
            "memory",
            f"{format_bytes(device.total_bytes)}, {format_bytes(device.capacity_bytes)} usable",
        ),
        ("driver", device.driver),
        ("compute capability", device.compute_capability),
        *([] if script else [("TF32 convolutions, matmuls", _tf32(device))]),
        *_versions(environment, script),
        ("system", environment.platform),
        ("CPU threads", str(environment.cpu_threads)),
        ("bsprobe", " ".join(filter(None, [environment.bsprobe, environment.commit]))),
        ("started", environment.started_at),
    ]
    known = [(name, value) for name, value in rows if value]
    again = code_span(quoted(environment.command))
    return f"{table(('', ''), known)}\n\nAgain: {again}"


def _versions(environment: Environment, script: ScriptFacts | None) -> list[tuple[str, str | None]]:
    """The versions and the setting that trained; those of bsprobe itself beside a script's."""
    if script is None:
        return [
            ("PyTorch", environment.torch),
            ("torchvision", environment.torchvision),
            ("CUDA, cuDNN", f"{environment.cuda or '-'}, {environment.cudnn or '-'}"),
            ("PYTORCH_CUDA_ALLOC_CONF", environment.cuda_alloc_conf),
            ("Python", environment.python),
        ]
    return [
        ("PyTorch of the script", script.torch or "not loaded"),
        ("Python of the script", script.python),
        ("PYTORCH_CUDA_ALLOC_CONF", environment.cuda_alloc_conf),
        ("PyTorch of bsprobe", environment.torch),
        ("Python of bsprobe", environment.python),
    ]


def _tf32(device: DeviceInfo) -> str | None:
    settings = (device.tf32_convolutions, device.tf32_matmuls)
    if None in settings:
        return None
    return ", ".join("on" if setting else "off" for setting in settings)


def fenced(language: str, text: str) -> str:
    """Return text as a block of code, within a fence that the text does not contain."""
    longest = max(map(len, re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def folded(title: str, body: str) -> str:
    """Return markdown that is shown when its title is clicked on; the title is plain text."""
    return f"<details><summary>{html(title)}</summary>\n\n{body}\n\n</details>"
