"""Networks, their training, honest baselines and pretrained weights."""

from helpers.models.augmentation import moved_heads
from helpers.models.cards import (
    as_the_network_reads,
    card_grid,
    check_card,
    draft_card,
    read_card,
    write_card,
)
from helpers.models.centred import centred
from helpers.models.confounds import check_confounds, confounds, number_confounds
from helpers.models.cross_validation import CrossValidation, cross_validate
from helpers.models.ensemble import Ensemble
from helpers.models.folds import FoldSet, load_folds, save_folds
from helpers.models.frozen import class_logits, frozen, resolve_targets, target_logits
from helpers.models.loading import load
from helpers.models.own import load_network
from helpers.models.reference_models import baselines
from helpers.models.registry import NETWORKS, build, layer, layers
from helpers.models.scoring import number_scores, predict, scores
from helpers.models.shipped import WEIGHTS, load_weights, pretrained, save_pretrained
from helpers.models.subjectwise import check_subjectwise
from helpers.models.training import check_outputs, flips, target_scale, train

__all__ = [
    "NETWORKS",
    "WEIGHTS",
    "CrossValidation",
    "Ensemble",
    "FoldSet",
    "as_the_network_reads",
    "baselines",
    "build",
    "card_grid",
    "centred",
    "check_card",
    "check_confounds",
    "check_outputs",
    "check_subjectwise",
    "class_logits",
    "confounds",
    "cross_validate",
    "draft_card",
    "flips",
    "frozen",
    "layer",
    "layers",
    "load",
    "load_folds",
    "load_network",
    "load_weights",
    "moved_heads",
    "number_confounds",
    "number_scores",
    "predict",
    "pretrained",
    "read_card",
    "resolve_targets",
    "save_folds",
    "save_pretrained",
    "scores",
    "target_logits",
    "target_scale",
    "train",
    "write_card",
]
