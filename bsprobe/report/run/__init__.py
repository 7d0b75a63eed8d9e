"""The report of a run (terminal, markdown, tables, plots) and its progress."""
