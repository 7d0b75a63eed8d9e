"""The workspaces of convolutions: which convolutions cuDNN runs, and what its plans take."""
