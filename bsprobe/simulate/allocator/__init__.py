"""PyTorch's caching allocator, its segments and the driver below it, without torch."""
