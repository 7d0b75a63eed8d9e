from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded_and_one_thread() -> Iterator[None]:
    """Use one thread: small convolutions wait for seconds for their threads on shared cores."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
