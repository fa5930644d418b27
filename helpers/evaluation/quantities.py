"""Numbers instead of taste: how good is an optimised volume?"""

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from helpers.activation_maximization.regularizers import energy_above


def fine_share(
    volumes: Float[Tensor, "image 1 x y z"], *, above: float = 0.25
) -> Float[Tensor, "image"]:
    """Return the share of the energy above a frequency, 0 to 1; the volume's mean is left out.

    Parameters
    ----------
    above : float
        In cycles per voxel; 0.25 is a period of four voxels.

    Examples
    --------
    >>> import torch
    >>> from helpers.evaluation import quantities
    >>> coarse = torch.arange(8.0).mul(torch.pi / 4).cos().expand(1, 1, 4, 4, 8)
    >>> round(float(quantities.fine_share(coarse)), 6)
    0.0
    """
    return energy_above(volumes, above) / energy_above(volumes, 0.0).clamp_min(1e-20)


def mean_correlation(
    volumes: Float[Tensor, "image 1 x y z"], mask: Bool[Tensor, "1 x y z"]
) -> float:
    """Return the mean correlation (Pearson's r over the mask) between every two volumes.

    Give it the volumes of one neuron from several seeds: 1 means that all seeds end alike.
    """
    if len(volumes) < 2:
        raise ValueError(f"mean_correlation compares two or more volumes, got {len(volumes)}")
    correlations = torch.corrcoef(volumes[:, mask])
    return float((correlations.sum() - len(volumes)) / (len(volumes) * (len(volumes) - 1)))


def nearest_subject(
    volumes: Float[Tensor, "image 1 x y z"],
    subjects: Float[Tensor, "subject 1 x y z"],
    mask: Bool[Tensor, "1 x y z"],
) -> pd.DataFrame:
    """Return the subject that each volume resembles most.

    Returns
    -------
    DataFrame
        One row an image: ``image``, ``subject`` (its position), ``correlation`` (Pearson's r over
        the mask).
    """
    together = torch.corrcoef(torch.cat([volumes[:, mask], subjects[:, mask]]))
    highest = together[: len(volumes), len(volumes) :].max(dim=1)
    return pd.DataFrame(
        {
            "image": range(len(volumes)),
            "subject": highest.indices.tolist(),
            "correlation": highest.values.tolist(),
        }
    )
