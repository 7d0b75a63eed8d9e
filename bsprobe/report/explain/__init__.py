"""The report of an explanation: terminal, markdown, tables, plots."""
