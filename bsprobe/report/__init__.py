"""Records rendered as terminal text, markdown, CSV, plots and a snippet."""
