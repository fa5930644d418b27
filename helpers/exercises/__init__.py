"""Did I get it right? Checks for the exercises of the chapters."""

from helpers.exercises.checks import Exercise, check

__all__ = ["Exercise", "check"]
