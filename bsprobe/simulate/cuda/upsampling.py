"""Dense copies in CUDA's upsampling kernels (aten/src/ATen/native/cuda/UpSample*.cu).

They are the same in PyTorch 2.6 to 2.15. `upsample_bilinear2d`, `upsample_bicubic2d`,
`upsample_linear1d` and `upsample_trilinear3d` read and write by strides and make no copies.
"""

from typing import Any

import torch

from bsprobe.simulate.cuda.autocast import Kernel
from bsprobe.simulate.cuda.effects import Effects, Rule, copies, with_inside
from bsprobe.simulate.cuda.limits import changes_size, resizes_channels_last

aten = torch.ops.aten
_runs_channels_last = resizes_channels_last(4)


def _both(args: tuple[Any, ...], out: Any) -> Effects:
    """Contiguous copies of output and input (`upsample_gen2d_aa_out_cuda_template`)."""
    return with_inside(out, copies((out, args[0]), torch.contiguous_format))


def _first(args: tuple[Any, ...], out: Any) -> Effects:
    """A contiguous copy of the input, or of the output's gradient."""
    return with_inside(out, copies(args[:1], torch.contiguous_format))


def _both_as_they_run(args: tuple[Any, ...], out: Any) -> Effects:
    """Copies of output and input, in channels last if the kernel for channels last runs.

    Source: `upsample_nearest2d_out_cuda_template`, `upsample_nearest2d_backward_out_cuda_template`
    and `upsample_bilinear2d_backward_out_cuda_template`.
    """
    call = args, out
    if not changes_size(call):
        return iter((out,))
    is_last = _runs_channels_last(call)
    layout = torch.channels_last if is_last else torch.contiguous_format
    return with_inside(out, copies((out, args[0]), layout))


UPSAMPLING: dict[Kernel, Rule] = {
    aten.upsample_bilinear2d_backward.default: _both_as_they_run,
    aten.upsample_nearest2d.default: _both_as_they_run,
    aten.upsample_nearest2d_backward.default: _both_as_they_run,
    aten._upsample_nearest_exact2d.default: _both_as_they_run,  # noqa: SLF001 - its name
    aten._upsample_nearest_exact2d_backward.default: _both_as_they_run,  # noqa: SLF001 - its name
    aten._upsample_bilinear2d_aa.default: _both,  # noqa: SLF001 - its name
    aten._upsample_bicubic2d_aa.default: _both,  # noqa: SLF001 - its name
    aten._upsample_bilinear2d_aa_backward.default: _first,  # noqa: SLF001 - its name
    aten._upsample_bicubic2d_aa_backward.default: _first,  # noqa: SLF001 - its name
    aten.upsample_bicubic2d_backward.default: _first,
    aten.upsample_nearest1d.default: _first,
    aten.upsample_nearest1d_backward.default: _first,
    aten.upsample_linear1d_backward.default: _first,
    aten.upsample_trilinear3d_backward.default: _first,
}
