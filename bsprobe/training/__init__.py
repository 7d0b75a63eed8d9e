"""The training step, the losses, the optimizers and the batches, the same on every device."""
