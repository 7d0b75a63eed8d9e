"""A study to text, tables, pictures."""
