"""A training from its first batch to its last validation: what a worker of a study runs."""
