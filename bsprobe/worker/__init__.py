"""The worker processes: the parent's side and the child's, and the protocol between them."""
