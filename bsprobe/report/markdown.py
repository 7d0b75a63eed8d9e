"""Parts of markdown that all reports have."""

from collections.abc import Sequence

from bsprobe.records.runs import DeviceInfo, Environment
from bsprobe.records.units import format_bytes


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a markdown table: the first column left-aligned, the others right-aligned."""
    lines = [header, ["---"] + ["--:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def environment_section(device: DeviceInfo, environment: Environment) -> str:
    """Return the machine, the versions and the command of a report."""
    rows = [
        ("device", device.name),
        (
            "memory",
            f"{format_bytes(device.total_bytes)}, {format_bytes(device.capacity_bytes)} usable",
        ),
        ("driver", device.driver),
        ("compute capability", device.compute_capability),
        ("TF32 convolutions, matmuls", _pair(device.tf32_convolutions, device.tf32_matmuls)),
        ("PyTorch", environment.torch),
        ("torchvision", environment.torchvision),
        ("CUDA, cuDNN", f"{environment.cuda or '-'}, {environment.cudnn or '-'}"),
        ("PYTORCH_CUDA_ALLOC_CONF", environment.cuda_alloc_conf),
        ("Python", environment.python),
        ("system", environment.platform),
        ("CPU threads", str(environment.cpu_threads)),
        ("bsprobe", " ".join(filter(None, [environment.bsprobe, environment.commit]))),
        ("started", environment.started_at),
    ]
    known = [(name, value) for name, value in rows if value]
    return f"{table(('', ''), known)}\n\nAgain: `{environment.command}`"


def _pair(one: bool | None, other: bool | None) -> str | None:  # noqa: FBT001 - two facts to print
    if one is None or other is None:
        return None
    return f"{'on' if one else 'off'}, {'on' if other else 'off'}"


def folded(title: str, body: str) -> str:
    """Return text that is shown when its title is clicked on."""
    return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>"
