"""Volumes with labels and, where somebody planted it, the truth."""

from helpers.cohorts.cohort import Cohort, Truth

__all__ = ["Cohort", "Truth"]
