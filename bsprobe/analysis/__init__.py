"""Pure arithmetic on records: no torch, no files, no printing."""
