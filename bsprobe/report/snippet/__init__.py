"""The snippet: the recommendation as code that trains with it."""
