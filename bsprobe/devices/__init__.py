"""Devices that run trials: a CUDA GPU, or the CPU with a real memory limit."""
