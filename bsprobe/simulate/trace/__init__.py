"""The training step on fake tensors: what it asks of the allocator, and when."""
