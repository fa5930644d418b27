"""Simulators by name."""

from helpers.warping.first import FirstSimulator
from helpers.warping.published import Liu2021
from helpers.warping.simulators import Simulator

SIMULATORS = {"course": Simulator, "first": FirstSimulator, "liu2021": Liu2021}


def build(
    name: str, shape: tuple[int, int, int], *, seed: int = 0, **options
) -> Simulator | FirstSimulator | Liu2021:
    """Return a simulator that has not been trained.

    Parameters
    ----------
    name : str
        ``"course"``: `Simulator`, which looks at the person. ``"liu2021"``: the published network,
        see `helpers.warping.published`. ``"first"``: the course's first one, which shows what a
        group has, see `helpers.warping.first`.
    shape : tuple of int
        Voxels along x, y, z.
    seed : int
        Of the initial weights.
    **options
        The simulator's own.

    Raises
    ------
    ValueError
        If there is no simulator of this name, or the shape is too small.

    Examples
    --------
    >>> from helpers import warping
    >>> simulator = warping.build("liu2021", (32, 40, 32))
    >>> sum(parameter.numel() for parameter in simulator.parameters()) < 1_000_000
    True
    """
    if name not in SIMULATORS:
        raise ValueError(f"unknown simulator {name!r}; there are {sorted(SIMULATORS)}")
    return SIMULATORS[name](shape, seed=seed, **options)
