"""The options of the commands: text to settings, with errors that say what to type."""
