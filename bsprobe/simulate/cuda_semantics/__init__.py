"""Everything in which a trace on CPU tensors differs from the same program on CUDA.

Two parts. First, which operators run: `cuda_dispatch` makes CPU tensors obey CUDA's autocast lists
(autocast.py) and CUDA's choice of kernels (choices.py) while it is active. The result is held,
operator by operator, to a trace of the forward pass on fake CUDA tensors
(tests/simulate/test_cuda_semantics.py). Second, what CUDA's kernels allocate inside, where no trace
can see it: buffers.py has a rule for each operator, those of convolutions in
convolution_buffers.py.
"""

from bsprobe.simulate.cuda_semantics.buffers import effects
from bsprobe.simulate.cuda_semantics.choices import as_on_cuda, cuda_dispatch
from bsprobe.simulate.cuda_semantics.effects import Inside

__all__ = ["Inside", "as_on_cuda", "cuda_dispatch", "effects"]
