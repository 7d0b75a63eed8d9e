"""The report of a study: text, tables and plots."""
