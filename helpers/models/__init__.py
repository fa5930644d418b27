"""Networks, their training, honest baselines and pretrained weights."""

from helpers.models.centred import centred
from helpers.models.ensemble import Ensemble
from helpers.models.frozen import class_logits, frozen, resolve_targets, target_logits
from helpers.models.reference_models import baselines
from helpers.models.registry import NETWORKS, build, layer, layers
from helpers.models.scoring import predict, scores
from helpers.models.shipped import WEIGHTS, load_weights, pretrained, save_pretrained
from helpers.models.subjectwise import check_subjectwise
from helpers.models.training import flips, train

__all__ = [
    "NETWORKS",
    "WEIGHTS",
    "Ensemble",
    "baselines",
    "build",
    "centred",
    "check_subjectwise",
    "class_logits",
    "flips",
    "frozen",
    "layer",
    "layers",
    "load_weights",
    "predict",
    "pretrained",
    "resolve_targets",
    "save_pretrained",
    "scores",
    "target_logits",
    "train",
]
