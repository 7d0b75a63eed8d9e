"""A training from its first batch to its last validation, run by the worker of a study."""
