"""What a simulator is trained for, term by term.

Each term is a function to one number a subject. `STRENGTHS` says how much each counts; the sum of
terms times strengths is what training minimises, and every term has its own column in the log.
"""

import math
from collections.abc import Mapping

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

STRENGTHS = {"logit_shift": 1.0, "smoothness": 3.0, "cycle": 10.0, "identity": 0.3}


def logit_shift(
    before: Float[Tensor, "subject"],
    after: Float[Tensor, "subject"],
    sign: Float[Tensor, "subject"],
    *,
    margin: float,
) -> Float[Tensor, "subject"]:
    """Return by how much the logit of the disease falls short of the shift that was asked for.

    Parameters
    ----------
    before, after : tensor of shape (subject,)
        Logit of the disease in the original and in the simulated volume, in units of the distance
        between the classes' mean logits.
    sign : tensor of shape (subject,)
        1 where the disease is injected, -1 where it is removed.
    margin : float
        Shift that is asked for; what goes beyond it earns nothing.
    """
    return F.relu(margin - sign * (after - before))


def smoothness(velocity: Float[Tensor, "subject 3 a b c"]) -> Float[Tensor, "subject"]:
    """Return the mean squared slope of a field: what does not pay in logits should not move."""
    slopes = [velocity.diff(dim=axis).square().flatten(1).mean(1) for axis in (2, 3, 4)]
    return sum(slopes)


def cycle(
    volumes: Float[Tensor, "subject 1 x y z"], returned: Float[Tensor, "subject 1 x y z"]
) -> Float[Tensor, "subject"]:
    """Return the mean squared difference of a volume and what comes back after there and back."""
    return (volumes - returned).square().flatten(1).mean(1)


def identity(velocity: Float[Tensor, "subject 3 a b c"]) -> Float[Tensor, "subject"]:
    """Return the mean squared motion where none was asked for: remove what is not there."""
    return velocity.square().sum(1).flatten(1).mean(1)


def chosen_strengths(strengths: Mapping[str, float]) -> dict[str, float]:
    """Return `STRENGTHS` with some of them replaced."""
    unknown = sorted(strengths.keys() - STRENGTHS.keys())
    bad = {name: s for name, s in strengths.items() if not 0 <= s < math.inf}
    if unknown or bad:
        raise ValueError(
            f"expected strengths of 0 or above for some of {list(STRENGTHS)}, got {dict(strengths)}"
        )
    return {**STRENGTHS, **strengths}
