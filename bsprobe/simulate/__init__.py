"""The simulated GPU: PyTorch's memory decisions replayed without a device."""
