"""A map's fair rival: the same map at another place in the same brain.

A score says little without the score of a map that cannot be right. Random numbers are too easy a
rival: scattered holes are salt and pepper to a network (on the course's lesion network, removing a
scattered 2 % of the brain takes the probability of the class from 0.98 to 0.58; a ball of that
size at a wrong place leaves it at 0.97, and so does the control here). A map rolled around the
edges of the grid brings air into the brain, and is scattered holes again.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from helpers import runtime
from helpers.evaluation.masks import counted


def elsewhere(
    maps: Float[Tensor, "subject 1 x y z"],
    *,
    within: Bool[Tensor, "#subject 1 x y z"],
    seed: int = 0,
) -> Float[Tensor, "subject 1 x y z"]:
    """Return each map at another place in its brain: the same values, in clumps as before.

    Every line of brain voxels from left to right is rolled, within the brain, by one share of its
    length, a quarter to three quarters; then every line from back to front by another. So every
    voxel takes its value from another one inside, and each value is used once. Neighbours part
    only at two seams and where the brain's surface is ragged: of the contacts between the
    strongest 5 % of voxels, clumps of centimetres keep about nine in ten, clumps of five voxels
    seven in ten. The height stays. A symmetric map moves as well: its halves may change sides,
    but both go to the front or to the back.

    Parameters
    ----------
    maps : tensor of shape (subject, 1, x, y, z)
    within : boolean tensor of the maps' shape, or of one subject for all
        The brain. Values outside stay as they are.
    seed : int
        Seed of the shares; the same for a subject whatever the others are.

    Returns
    -------
    tensor of the maps' shape

    Raises
    ------
    ValueError
        If shapes differ, maps hold NaN, or a mask is empty.

    Examples
    --------
    >>> import torch
    >>> from helpers import evaluation
    >>> line = torch.tensor([9.0, 1, 2, 3, 4, 9]).view(1, 1, 6, 1, 1)
    >>> evaluation.elsewhere(line, within=line < 9).flatten().tolist()
    [9.0, 4.0, 1.0, 2.0, 3.0, 9.0]
    """
    inside = counted(maps, within)
    return torch.stack(
        [moved(maps[i], inside[i], runtime.generator(seed, i)) for i in range(len(maps))]
    )


def moved(
    values: Float[Tensor, "1 x y z"], inside: Bool[Tensor, "1 x y z"], generator: torch.Generator
) -> Float[Tensor, "1 x y z"]:
    """Roll the lines of one brain: `elsewhere` for one subject."""
    for axis in (1, 2):
        share = float(0.25 + 0.5 * torch.rand((), generator=generator))
        lines, brain = values.movedim(axis, -1), inside.movedim(axis, -1)
        # The voxels inside, line after line: where each line begins, and each voxel's place in it.
        lengths = brain.sum(-1, keepdim=True)
        begin = (lengths.flatten().cumsum(0) - lengths.flatten()).view_as(lengths)
        place = brain.cumsum(-1) - 1
        source = begin + (place - (share * lengths).round().long()) % lengths.clamp_min(1)
        rolled = lines.clone()
        rolled[brain] = lines[brain][source[brain]]
        values = rolled.movedim(-1, axis)
    return values
