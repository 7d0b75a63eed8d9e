"""A package named torch with what a script's records need, imported in milliseconds."""

from pathlib import Path

_INIT = """
import os, resource
from torch.version import __version__

LIMIT_IN_IMPORT = resource.getrlimit(resource.RLIMIT_DATA)[0]
if os.environ.get("STUB_FAILS"):
    raise ImportError("stub")

class OutOfMemoryError(RuntimeError):
    pass

class Tensor:
    device = None
    def __init__(self, size):
        self.size = size
    def numel(self):
        return self.size

def get_num_threads():
    return 3

from torch import backends, cuda, optim
"""
_BACKENDS = """
class cudnn:
    benchmark = True
"""
_CUDA = """
DEVICES = []
QUEUED = []
SHARES = {}
WAITED = []

class Properties:
    def __init__(self, total):
        self.total_memory = total

def is_initialized():
    return bool(DEVICES)
def device_count():
    return len(DEVICES)
def memory_stats_as_nested_dict(device):
    return DEVICES[device]
def get_device_properties(device):
    return Properties(1000 * (device + 1))
def set_per_process_memory_fraction(share, device):
    SHARES[device] = share
def synchronize(device):
    WAITED.append(device)
def _lazy_call(call):
    QUEUED.append(call)
def initialise(*devices):
    DEVICES[:] = [
        {
            "reserved_bytes": {"all": {"peak": reserved}},
            "allocated_bytes": {"all": {"peak": reserved - 1, "current": 5}},
            "num_alloc_retries": 1,
            "num_ooms": 2,
        }
        for reserved in devices
    ]
    for call in QUEUED:
        call()
"""
_DYNAMO = """
LATE = bytearray(16 << 20)
"""
_OPTIMIZER = """
import functools

POST_HOOKS = []

class Optimizer:
    def __init__(self, params, defaults):
        import torch._dynamo
        kind = type(self)
        if not getattr(kind.step, "hooked", None):
            kind.step = self.profile_hook_step(kind.step)
            kind.step.hooked = True
        self.param_groups = [{"params": list(params), **defaults}]

    @staticmethod
    def profile_hook_step(func):
        @functools.wraps(func)
        def wrapper(*args, **kwargs):
            out = func(*args, **kwargs)
            for hook in POST_HOOKS:
                hook(args[0], args, kwargs)
            return out
        return wrapper
"""
_REGISTER = """
def register_optimizer_step_post_hook(hook):
    POST_HOOKS.append(hook)
"""
_OPTIM = """
from torch.optim.optimizer import Optimizer

class SGD(Optimizer):
    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})
    def step(self):
        return "stepped"

del optimizer  # as PyTorch does
"""


def write_stub_torch(folder: Path, *, version: str = "2.14.1+cu130", hooks: bool = True) -> None:
    """Write the package into a folder.

    Args:
        folder: An existing folder.
        version: The version of the package.
        hooks: True to let it have global hooks on optimizers, as PyTorch since 2.0.
    """
    files = {
        "__init__.py": _INIT,
        "version.py": f"__all__ = ['__version__']\n__version__ = '{version}'\n",
        "backends.py": _BACKENDS,
        "cuda.py": _CUDA,
        "_dynamo.py": _DYNAMO,
        "optim/__init__.py": _OPTIM,
        "optim/optimizer.py": _OPTIMIZER + (_REGISTER if hooks else ""),
    }
    for name, text in files.items():
        path = folder / "torch" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
