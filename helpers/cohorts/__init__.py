"""Volumes with labels and, where somebody planted it, the truth."""

from helpers.cohorts.cohort import Cohort, Truth, concatenate
from helpers.cohorts.leaks import audit_leaks, image_statistics
from helpers.cohorts.simulate import render, simulate

__all__ = [
    "Cohort",
    "Truth",
    "audit_leaks",
    "concatenate",
    "image_statistics",
    "render",
    "simulate",
]
