"""The verbs: probe, predict, explain and fit, each from its settings to its record."""
