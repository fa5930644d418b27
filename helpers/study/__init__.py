"""Your own scans and your own network: verbs over a folder of scans.

A `Study` is a folder of scans and one folder for everything that is found about them.
"""

from helpers.study.explaining import explain, model_grid
from helpers.study.folders import Study
from helpers.study.grouping import group
from helpers.study.maximizing import maximize
from helpers.study.preprocessing import preprocess
from helpers.study.reporting import report
from helpers.study.simulating import simulate
from helpers.study.training import train
from helpers.study.trusting import planting, trust

__all__ = [
    "Study",
    "explain",
    "group",
    "maximize",
    "model_grid",
    "planting",
    "preprocess",
    "report",
    "simulate",
    "train",
    "trust",
]
