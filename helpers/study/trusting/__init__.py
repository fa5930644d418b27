"""Can the maps be trusted on these scans? A known effect is planted, and maps are asked for it."""

from helpers.study.trusting.asking import METHODS, trust

__all__ = ["METHODS", "trust"]
