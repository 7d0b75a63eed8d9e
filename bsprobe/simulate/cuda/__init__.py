"""Everything in which a trace on CPU tensors differs from the same program on CUDA.

Two parts. First, which operators run: `cuda_dispatch` makes CPU tensors obey CUDA's autocast lists
(autocast.py) and CUDA's choice of kernels (kernels.py; attention.py for attention, older.py for
older PyTorch) while it is active. The result is held, operator by operator, to a trace of the
forward pass on fake CUDA tensors (tests/simulate/test_cuda_semantics.py). What is done otherwise
only because something watches is undone: in the forward pass by composites.py, in the backward
pass by the tables of kernels.py and formulas.py. Second, what CUDA's kernels allocate inside, where
no trace can see it: scratch.py has a rule for each operator, those of convolutions in
conv_scratch.py, of attention in attention_scratch.py, of losses in losses.py, of upsampling in
upsampling.py, of indexing and sorting in indexing.py; limits.py names the kernels that count in 32
bits; libraries.py says what cuBLAS and cuDNN take with this PyTorch.
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
