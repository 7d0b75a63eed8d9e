"""One training step, its loss, its optimizer: the same on every device."""
