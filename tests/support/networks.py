"""Networks that bsprobe builds by name."""

from typing import Any

import torch
from torch import nn

from bsprobe.records.units import Resolution
from bsprobe.records.variants import Variant
from bsprobe.training.models.factory import build_model

SMALL = Resolution(height=64, width=96)


def without_data(model: str, **others: Any) -> nn.Module:
    """Build a network of full size on the meta device."""
    with torch.device("meta"):
        return build_model(Variant(**{"model": model, "resolution": SMALL, **others}))
