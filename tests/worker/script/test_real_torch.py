"""Records and limits of scripts with the real PyTorch."""

import sys

import pytest

from tests.support.commands import python_path
from tests.support.inside import INSIDE, Ran, Scripts

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

CPU = {
    "BSPROBE_LIMIT": str(300 << 20),
    "BSPROBE_LIMIT_KIND": "cpu",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "PYTHONPATH": f"{INSIDE}:{python_path()}",
}
SWALLOWS = """
import torch

def step(size):
    images = torch.randn(size, 1 << 20)
    (images * weight).sum().backward()
    optimizer.step()
    optimizer.zero_grad()

weight = torch.nn.Parameter(torch.zeros(1))
optimizer = torch.optim.AdamW([weight], lr=torch.tensor(0.5))
size = 64
while size:
    try:
        step(size)
        break
    except RuntimeError:
        size //= 2
print(size)
"""
LOADS = """
import os
import torch
from torch.utils.data import DataLoader, Dataset

class Data(Dataset):
    def __len__(self):
        return 32
    def __getitem__(self, index):
        return torch.randn(8)

if __name__ == "__main__":
    if os.fork() == 0:
        os._exit(0)
    os.wait()
    model = torch.nn.Linear(8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for start in ("fork", "spawn"):
        for batch in DataLoader(Data(), 16, num_workers=2, multiprocessing_context=start):
            model(batch).sum().backward()
            optimizer.step()
"""
COMPILES = """
import torch
model = torch.nn.Linear(2, 2)
optimizer = torch.optim.Adam(model.parameters())
step = torch.compile(optimizer.step, backend="eager")
model = torch.compile(model, backend="eager")
for _ in range(3):
    model(torch.ones(2, 2)).sum().backward()
    step()
"""


def kinds(ran: Ran) -> list[list[str]]:
    assert ran.done.returncode == 0, ran.done.stderr
    return [[each["kind"] for each in file] for file in ran.files]


def test_a_script_that_swallows_its_out_of_memory_is_found_out(scripts: Scripts) -> None:
    ran = scripts.run(SWALLOWS, **CPU)
    steps, ooms = ran.records("step"), ran.records("oom")
    size = int(ran.done.stdout)
    # 4 MiB an image, and once more for the product; the gradient is as large as the product.
    assert size == 32
    assert len(ooms) == 1
    assert "DefaultCPUAllocator: can't allocate memory" in ooms[0]["message"]
    assert [(each["optimizer"], each["rates"]) for each in steps] == [("AdamW", [0.5])]
    assert 200 << 20 < steps[0]["allocated"] < 300 << 20


def test_workers_that_load_data_write_nothing(scripts: Scripts) -> None:
    assert kinds(scripts.run(LOADS, **CPU)) == [["torch", *["step"] * 4, "end"]]


def test_a_compiled_step_is_recorded(scripts: Scripts) -> None:
    assert kinds(scripts.run(COMPILES, **CPU)) == [["torch", *["step"] * 3, "end"]]
