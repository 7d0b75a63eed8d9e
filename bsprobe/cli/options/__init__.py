"""The options of the commands, and their conversion to settings."""
