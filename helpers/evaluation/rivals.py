"""Maps that have never seen the network: the rivals that every attribution method must beat.

Blind rivals look at a person's scan alone. Label-aware rivals have seen who of the training people
belongs to which class, and show everybody the same map. A method that finds a planted place no
better than they do has shown nothing about what the network uses.

References
----------
Welch (1947), The generalization of Student's problem when several different population variances
are involved.
Cortes, Vapnik (1995), Support-vector networks.
Haufe et al. (2014), On the interpretation of weight vectors of linear models in multivariate
neuroimaging: weights and patterns, equation 6.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from sklearn.svm import SVC
from torch import Tensor

Rival = Callable[[Tensor], Tensor]


def blind_rivals(healthy: Float[Tensor, "subject 1 x y z"]) -> dict[str, Rival]:
    """Return maps that know the scan and nothing else.

    Parameters
    ----------
    healthy : tensor of shape (subject, 1, x, y, z)
        Healthy people, at least 2, none of whom is to be explained.

    Returns
    -------
    dict
        From a name to a function that takes volumes of shape (subject, 1, x, y, z) and returns
        maps of that shape, 0 outside the brain of each person. ``"random numbers"``: from 0 to 1,
        the same in every call. ``"brightness"``: the scan itself. ``"edges of the scan"``: length
        of its gradient, a voxel. ``"distance from healthy mean"``: absolute difference in
        standard deviations of the healthy (at least 0.05, or voxels that hardly vary would win),
        averaged over 3 x 3 x 3 voxels.

    Raises
    ------
    ValueError
        If there are fewer than 2 people or volumes hold NaN or infinite values. The functions
        raise it too, and for volumes of another grid.

    Examples
    --------
    >>> from helpers import cohorts, evaluation, grids
    >>> people = cohorts.simulate("lesion", subjects=8, grid=grids.mni(8.0))
    >>> rivals = evaluation.blind_rivals(people[people.labels == 0].volumes)
    >>> for name, rival in rivals.items():
    ...     print(name, tuple(rival(people.volumes).shape))
    random numbers (8, 1, 24, 28, 24)
    brightness (8, 1, 24, 28, 24)
    edges of the scan (8, 1, 24, 28, 24)
    distance from healthy mean (8, 1, 24, 28, 24)
    """
    _check_finite(healthy, "of the healthy people")
    if len(healthy) < 2:
        raise ValueError(
            f"a standard deviation needs at least 2 healthy people, got {len(healthy)}"
        )
    mean, deviation = healthy.mean(0), healthy.std(0)

    def distance(volumes: Tensor) -> Tensor:
        z = (volumes - mean).abs() / deviation.clamp_min(0.05)
        return F.avg_pool3d(z, 3, stride=1, padding=1) * (volumes != 0)

    rivals = {
        "random numbers": _random_numbers,
        "brightness": lambda volumes: volumes,
        "edges of the scan": _edges,
        "distance from healthy mean": distance,
    }
    return {name: _checked(rival, healthy.shape[2:]) for name, rival in rivals.items()}


def label_aware_rivals(
    volumes: Float[Tensor, "subject 1 x y z"], labels: Int[Tensor, "subject"], target: int
) -> dict[str, Rival]:
    """Return maps that know the training people's labels, one map for everybody.

    With several classes, the asked one is compared with all others together.

    Parameters
    ----------
    volumes : tensor of shape (subject, 1, x, y, z)
        The training people, in one common space. Voxels that are 0 in all of them lie outside the
        brain: they do not count and every map is 0 there.
    labels : tensor of shape (subject,)
        Class of each.
    target : int
        The asked class. Positive values of a map: brighter there speaks for this class.

    Returns
    -------
    dict
        From a name to a function that takes volumes of shape (subject, 1, x, y, z) and returns
        the same map for each, in that shape. ``"difference of means"``: of the class and the rest.
        ``"t-map"``: of two samples with unequal variances (Welch); 0 where all people are equal.
        ``"SVM weights"``: of a linear support vector machine with C = 1, on voxels as they are.
        ``"SVM pattern (Haufe)"``: covariance of each voxel with the machine's output, over the
        variance of the output. Weights tell what the machine reads, and it also reads noise, in
        order to subtract it; the pattern tells which voxels go with what it says.

    Raises
    ------
    ValueError
        If the class or the rest has fewer than 2 people, volumes hold NaN or infinite values, no
        voxel differs between people, or a voxel differs between the classes and not within. The
        functions raise it for volumes of another grid or with NaN.

    Examples
    --------
    >>> from helpers import cohorts, evaluation, grids
    >>> training = cohorts.simulate("atrophy", subjects=12, grid=grids.mni(8.0))
    >>> rivals = evaluation.label_aware_rivals(training.volumes, training.labels, 1)
    >>> list(rivals)
    ['difference of means', 't-map', 'SVM weights', 'SVM pattern (Haufe)']
    >>> other = cohorts.simulate("atrophy", subjects=2, seed=1, grid=grids.mni(8.0))
    >>> tuple(rivals["t-map"](other.volumes).shape)
    (2, 1, 24, 28, 24)
    """
    _check_finite(volumes, "of the training people")
    if labels.shape != (len(volumes),):
        raise ValueError(f"expected one label a person ({len(volumes)}), got {tuple(labels.shape)}")
    asked = (labels == target).numpy()
    if min(asked.sum(), (~asked).sum()) < 2:
        raise ValueError(
            f"expected at least 2 people of class {target} and 2 of the other classes, "
            f"got {asked.sum()} and {(~asked).sum()}"
        )
    differs = volumes.amax(0) != volumes.amin(0)  # the rest, air included, is 0 in every map
    if not differs.any():
        raise ValueError("no voxel differs between the training people; are they one scan?")
    values = volumes[:, differs].double().numpy()
    of_class, of_rest = values[asked], values[~asked]
    difference = of_class.mean(0) - of_rest.mean(0)
    weights = (
        SVC(kernel="linear").fit(values, asked).coef_[0].copy()
    )  # scikit-learn's own is read-only
    maps = {
        "difference of means": difference,
        "t-map": difference / _welch_error(of_class, of_rest),
        "SVM weights": weights,
        "SVM pattern (Haufe)": _pattern(values, weights),
    }
    return {name: _same_for_all(of_voxels, differs) for name, of_voxels in maps.items()}


def _random_numbers(volumes: Tensor) -> Tensor:
    noise = torch.rand(volumes.shape, generator=torch.Generator().manual_seed(0))
    return noise * (volumes != 0)


def _edges(volumes: Tensor) -> Tensor:
    slopes = torch.gradient(volumes, dim=(2, 3, 4))
    return torch.stack(slopes).norm(dim=0) * (volumes != 0)


def _welch_error(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the standard error of the difference of two means."""
    error = np.sqrt(a.var(0, ddof=1) / len(a) + b.var(0, ddof=1) / len(b))
    if (error == 0).any():
        raise ValueError(
            f"infinite t in {(error == 0).sum()} voxels, which differ between the classes and not "
            "within; give more people, or leave these voxels out by setting them to 0 in everybody"
        )
    return error


def _pattern(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return Haufe's pattern, without a matrix of all pairs of voxels."""
    centred = values - values.mean(0)
    output = centred @ weights
    return centred.T @ output / (output @ output)


def _same_for_all(of_voxels: np.ndarray, differs: Tensor) -> Rival:
    fixed = torch.zeros(differs.shape)
    fixed[differs] = torch.from_numpy(of_voxels).float()
    return _checked(lambda volumes: fixed.repeat(len(volumes), 1, 1, 1, 1), fixed.shape[1:])


def _checked(rival: Rival, shape: torch.Size) -> Rival:
    def checked(volumes: Tensor) -> Tensor:
        if volumes.shape[2:] != shape:
            raise ValueError(
                f"the rival was made from people with {tuple(shape)} voxels, the volumes have "
                f"{tuple(volumes.shape[2:])}; bring both to one grid"
            )
        _check_finite(volumes, "to be explained")
        return rival(volumes)

    return checked


def _check_finite(volumes: Tensor, whose: str) -> None:
    broken = (~volumes.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
    if broken:
        raise ValueError(
            f"the volumes {whose} hold NaN or infinite values, first in person {broken[0]}; "
            "mend or leave out such scans"
        )
