"""Scripts that compare bsprobe with recordings, publications and other tools."""
