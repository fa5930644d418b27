"""Volumes with labels and, where somebody planted it, the truth."""

from helpers.cohorts.bids import from_bids
from helpers.cohorts.cohort import Cohort, Truth, concatenate
from helpers.cohorts.deformations import planted_structures
from helpers.cohorts.ixi_scans import fetch_ixi, ixi
from helpers.cohorts.leaks import audit_leaks, image_statistics
from helpers.cohorts.parts import Twins, part_places, planted_parts, twins
from helpers.cohorts.real_brains import real, real_study
from helpers.cohorts.report import Report
from helpers.cohorts.scans import to_scan
from helpers.cohorts.simulation import render, simulate

__all__ = [
    "Cohort",
    "Report",
    "Truth",
    "Twins",
    "audit_leaks",
    "concatenate",
    "fetch_ixi",
    "from_bids",
    "image_statistics",
    "ixi",
    "part_places",
    "planted_parts",
    "planted_structures",
    "real",
    "real_study",
    "render",
    "simulate",
    "to_scan",
    "twins",
]
