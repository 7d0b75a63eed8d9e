"""Runs the program in a variable, as a module, because a fork server runs only modules."""

import os

exec(os.environ["GIVEN_PROGRAM"])  # noqa: S102 - the text comes from a test
