"""Records to what people look at: terminal, markdown, CSV, plots, a snippet."""
