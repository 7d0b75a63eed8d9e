"""Devices that run trials: a CUDA GPU, the CPU with a memory limit, or a simulated GPU."""
