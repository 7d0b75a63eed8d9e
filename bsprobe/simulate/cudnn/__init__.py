"""Workspaces of convolutions: the choice of backend, and the memory of cuDNN's plans."""
