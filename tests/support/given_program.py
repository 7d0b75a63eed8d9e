"""Runs the program that a variable holds, as a module: a fork server runs nothing else."""

import os

exec(os.environ["GIVEN_PROGRAM"])  # noqa: S102 - a test gives it
