"""Files on disk: what is written, whole or line by line, and what is read back and checked."""
