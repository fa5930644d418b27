"""Simulators: networks that warp a brain until a classifier changes its mind, and show the change.

A simulator learns from a classifier what an ill and a healthy brain look like; what it does to a
volume is anatomy that can be measured: `Simulation.log_expansion`. Everything about disease in this
course is planted, and nothing that a simulator shows is a clinical finding.
"""

from helpers.warping.conditional_convolution import CondConv3d
from helpers.warping.hardening import disturbances
from helpers.warping.lessons import STRENGTHS
from helpers.warping.optimizing import optimize
from helpers.warping.registry import build
from helpers.warping.shipped import WEIGHTS, pretrained, save_pretrained
from helpers.warping.simulators import (
    DIRECTIONS,
    Simulation,
    Simulator,
)
from helpers.warping.training import train_simulator

__all__ = [
    "DIRECTIONS",
    "STRENGTHS",
    "WEIGHTS",
    "CondConv3d",
    "Simulation",
    "Simulator",
    "build",
    "disturbances",
    "optimize",
    "pretrained",
    "save_pretrained",
    "train_simulator",
]
