"""Networks are built without drawing their random values."""

from typing import NoReturn

import pytest
import torch

from bsprobe.records.units import Resolution
from bsprobe.records.variants import Variant
from bsprobe.simulate.trace.fake_model import build_without_values

SWIN = Variant(model="torchvision:swin_t", resolution=Resolution(height=32, width=32), classes=1000)


def _draw(*_: object, **__: object) -> NoReturn:
    raise AssertionError("something was drawn")


def test_a_truncated_distribution_is_not_drawn_from(monkeypatch: pytest.MonkeyPatch) -> None:
    # PyTorch 2.15 draws until every value is within the bounds: for ever, where none is drawn.
    monkeypatch.setattr(torch.nn.init, "_no_grad_trunc_normal_", _draw)

    network = build_without_values(SWIN)

    assert sum(parameter.numel() for parameter in network.parameters()) == 28_288_354
    with pytest.raises(AssertionError, match="drawn"):
        torch.nn.init.trunc_normal_(torch.empty(3))
