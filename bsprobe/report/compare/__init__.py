"""Reports of several runs: one against a baseline, and many beside each other."""
