"""The nouns of bsprobe: frozen, JSON-able records without behaviour of their own."""
