"""Training with each batch size to the end of a budget, and comparing what was learned."""
