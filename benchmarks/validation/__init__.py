"""Recorded histories of the allocator: read, replayed, and compared with a prediction."""
