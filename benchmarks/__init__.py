"""Scripts that hold bsprobe against recordings, publications and peers; one a question."""
