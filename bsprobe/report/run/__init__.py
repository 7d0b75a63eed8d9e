"""The report of a run: terminal, markdown, tables, plots, and the progress before it."""
