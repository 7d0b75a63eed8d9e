"""The name of the processor."""

from pathlib import Path


def cpu_device_name() -> str:
    """The name of the CPU as a device: `CPU (AMD EPYC)`."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"CPU ({next(models, 'unknown processor')})"
