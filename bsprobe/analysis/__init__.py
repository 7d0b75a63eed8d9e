"""Pure computations on records: no torch, no files, no output."""
