"""Did I get it right? Checks for the exercises of the chapters."""

from helpers.exercises.check import Exercise, check

__all__ = ["Exercise", "check"]
