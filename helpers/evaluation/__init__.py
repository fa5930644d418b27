"""Is the explanation right? Scores against the truth, as tidy tables."""

from helpers.evaluation.localization import localization

__all__ = ["localization"]
