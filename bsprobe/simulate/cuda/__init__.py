"""Corrections that make a trace on CPU tensors match the same program on CUDA.

The first part is the choice of operators. While `cuda_dispatch` is active, CPU tensors follow
CUDA's autocast lists (autocast.py) and CUDA's choice of kernels (kernels.py; attention.py for
attention, older.py for older versions of PyTorch). The tests compare the result, operator by
operator, with a trace of the forward pass on fake CUDA tensors. PyTorch decomposes some operators
differently under a dispatch mode; composites.py undoes this in the forward pass, the tables of
kernels.py and formulas.py in the backward pass.

The second part is the memory that CUDA's kernels allocate internally, which a trace cannot see.
scratch.py has a rule per operator. The rules of convolutions are in conv_scratch.py, of attention
in attention_scratch.py, of losses in losses.py, of upsampling in upsampling.py, of indexing and
sorting in indexing.py. limits.py lists the kernels that count elements in 32 bits. libraries.py
has the workspaces of cuBLAS and cuDNN in the installed PyTorch.
"""

from bsprobe.simulate.cuda.composites import COMPOSITES
from bsprobe.simulate.cuda.effects import Held, Inside, is_dense
from bsprobe.simulate.cuda.formulas import FORMULAS
from bsprobe.simulate.cuda.kernels import WRITES_INTO, ZEROS, as_on_cuda, cuda_dispatch
from bsprobe.simulate.cuda.scratch import effects

__all__ = [
    "COMPOSITES",
    "FORMULAS",
    "WRITES_INTO",
    "ZEROS",
    "Held",
    "Inside",
    "as_on_cuda",
    "cuda_dispatch",
    "effects",
    "is_dense",
]
