"""Simulation of PyTorch's caching allocator and of the CUDA driver, without torch."""
