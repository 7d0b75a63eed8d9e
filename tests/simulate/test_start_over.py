"""Equal starts of recordings."""

from typing import Any

import torch
from torch import Tensor, nn

from bsprobe.simulate.trace.start_over import starting_over


class AddsItsHookLater(nn.Module):
    """Registers a hook in its first step and sets a flag, as networks of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.seen: list[str] = []
        self.has_hook = False

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.has_hook:
            self.inner.register_forward_hook(self._note)
            self.has_hook = True
        found: Tensor = self.inner(inputs)
        return found

    def _note(self, *_: Any) -> None:
        self.seen.append("called")


def test_a_hook_that_a_network_adds_in_its_first_step_is_there_once_in_the_next_recording() -> None:
    model = AddsItsHookLater()
    for _ in range(3):
        with starting_over(model):
            model(torch.zeros(1, 2))
            assert model.seen == ["called"]
    assert not model.seen
    assert not model.inner._forward_hooks


def test_a_hook_from_before_is_kept() -> None:
    model = AddsItsHookLater()
    model.inner.register_forward_hook(lambda *_: model.seen.append("mine"))
    with starting_over(model):
        model(torch.zeros(1, 2))
        assert model.seen == ["mine", "called"]
    assert len(model.inner._forward_hooks) == 1
