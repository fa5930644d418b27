"""A network's card: what it reads, and what its answers are called.

Weights say nothing about the voxels that a network was trained on. A card does, in a few lines of
TOML or JSON::

    classes = ["control", "patient"]
    shape = [80, 96, 80]
    spacing_mm = 2.0
    intensity = "zscore"

Scans are then brought to MNI space at this spacing, cropped or padded about the middle to this
shape, and their intensities are made what the network expects:

- ``"median"`` (default): background 0, median of the brain 1, as all networks of this course;
- ``"zscore"``: mean 0 and standard deviation 1 over all voxels, the background too, as MONAI's
  ``NormalizeIntensity`` does it;
- ``"zscore_brain"``: the same over the brain alone, background 0 (with ``nonzero=True``);
- ``"unit"``: divided by the brightest voxel, from 0 to 1, as MONAI's ``ScaleIntensity``.

``space = "rigid"`` says that heads were turned and shifted onto the template, but kept their size
(the default is ``"mni"``, with all twelve parameters of an affine). Maps then go to MNI space by
the same registration.

``space = "native"`` says that the network was trained on scans that nobody had registered. Brains,
cut out by their masks, are then brought to this spacing along the scan's own axes and cropped or
padded about their own middle, see `helpers.cohorts.native`.
"""

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from helpers import grids, runtime
from helpers.grids import Grid
from helpers.models.frozen import frozen

# From a brain with the median 1 on a background of 0, and where the brain is.
INTENSITIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "median": lambda volume, brain: volume,
    "zscore": lambda volume, brain: (volume - volume.mean()) / volume.std(correction=0),
    "zscore_brain": lambda volume, brain: torch.where(
        brain, (volume - volume[brain].mean()) / volume[brain].std(correction=0), 0.0
    ),
    "unit": lambda volume, brain: volume / volume.max(),
}
SPACES: dict[str, Callable[[float, tuple[int, int, int]], Grid]] = {
    "mni": grids.mni,
    "rigid": grids.rigid,
    "native": grids.native,
}
_NEEDED = ("classes", "shape", "spacing_mm")


def read_card(path: str | Path) -> dict[str, Any]:
    """Read a card, TOML or JSON, and check it.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no card; the message says what is wrong with which line of it.

    Examples
    --------
    >>> from helpers import models
    >>> models.read_card(models.WEIGHTS / "atrophy.json")["classes"]
    ['control', 'patient']
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no card at {path}; expected TOML or JSON with {list(_NEEDED)}")
    parse = tomllib.loads if path.suffix == ".toml" else json.loads
    try:
        card = parse(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of the text, the TOML or the JSON
        raise ValueError(f"{path} is no card: {error}") from error
    check_card(card, path)
    return card


def write_card(card: Mapping[str, Any], path: str | Path) -> None:
    """Write a card as TOML or JSON, whichever the file's name asks for.

    Raises
    ------
    ValueError
        If it is no card, or the name ends otherwise.

    Examples
    --------
    >>> import tempfile
    >>> from helpers import models
    >>> path = f"{tempfile.mkdtemp()}/mine.toml"
    >>> models.write_card({"classes": ["F", "M"], "shape": [48, 56, 48], "spacing_mm": 4.0}, path)
    >>> models.read_card(path)["classes"]
    ['F', 'M']
    """
    path = Path(path)
    check_card(card)
    if path.suffix not in (".toml", ".json"):
        raise ValueError(f"a card is called .toml or .json, got {path}")
    if path.suffix == ".json":
        return runtime.write_json(path, card)
    # Texts, numbers and lists of them are written in TOML as in JSON.
    lines = [f"{name} = {json.dumps(value)}\n" for name, value in card.items()]
    with runtime.replacing(path) as unfinished:
        unfinished.write_text("".join(lines), encoding="utf-8")


def check_card(card: Any, where: object = "the card") -> None:
    """Raise a ValueError unless a card says what it has to."""
    if not isinstance(card, Mapping):
        raise ValueError(f"{where} is no card: expected names with values, got {card!r:.60}")
    missing = [name for name in _NEEDED if name not in card]
    if missing:
        raise ValueError(f"{where} does not say {missing}")
    names, shape = card["classes"], card["shape"]
    if not (
        isinstance(names, list)
        and len(set(map(str, names))) == len(names) >= 2
        and all(isinstance(name, str) and name for name in names)
    ):
        raise ValueError(
            f"{where} has the classes {names!r}; expected two names or more, each once. A network "
            f"with one logit has two: what it says no to, then what it says yes to"
        )
    if not (
        isinstance(shape, list) and len(shape) == 3 and all(type(n) is int and n > 0 for n in shape)
    ):
        raise ValueError(f"{where} has the shape {shape!r}; expected three numbers of voxels")
    rule = card.get("intensity", "median")
    if rule not in list(INTENSITIES):
        raise ValueError(
            f"{where} has the intensity {rule!r}; expected one of {sorted(INTENSITIES)}"
        )
    if card.get("space", "mni") not in list(SPACES):
        raise ValueError(
            f"{where} has the space {card['space']!r}; expected one of {sorted(SPACES)}"
        )
    try:
        card_grid(card)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} has a spacing_mm of {card['spacing_mm']!r}: {error}") from error


def card_grid(card: Mapping[str, Any]) -> Grid:
    """Return the grid whose voxels a network reads: in the card's space.

    Examples
    --------
    >>> from helpers import models
    >>> card = {"classes": ["control", "patient"], "shape": [80, 96, 80], "spacing_mm": 2.0}
    >>> models.card_grid(card).shape
    (80, 96, 80)
    """
    return SPACES[card.get("space", "mni")](card["spacing_mm"], tuple(card["shape"]))


def as_the_network_reads(
    volumes: Float[Tensor, "subject 1 x y z"], card: Mapping[str, Any]
) -> Float[Tensor, "subject 1 x y z"]:
    """Return standardised brains (background 0, median 1) with the intensities of a card.

    Examples
    --------
    >>> from helpers import anatomy, models
    >>> brain = anatomy.template().t1[None]
    >>> models.as_the_network_reads(brain, {"intensity": "unit"}).max()
    tensor(1.)
    """
    rule = INTENSITIES[card.get("intensity", "median")]
    brains: Bool[Tensor, "subject 1 x y z"] = volumes != 0
    return torch.stack([rule(volume, brain) for volume, brain in zip(volumes, brains, strict=True)])


def draft_card(
    model: nn.Module,
    shape: tuple[int, int, int],
    *,
    spacing_mm: float,
    classes: Sequence[str] | None = None,
    intensity: str = "median",
    space: str = "mni",
) -> dict[str, Any]:
    """Ask a network how many answers it gives, and return its card.

    Parameters
    ----------
    shape, spacing_mm
        What the network was trained on.
    classes : sequence of str, optional
        What its answers are called, in their order; default ``class 0``, ``class 1``, ...
    intensity : str
        One of the module's rules; default ``"median"``.
    space : str
        ``"rigid"`` if heads kept their size, ``"native"`` if scans were not registered; default
        ``"mni"``.

    Raises
    ------
    ValueError
        If the network does not take a volume of this shape, puts out no logits, or gives more or
        fewer answers than there are names; or if there is no such rule or space.

    Examples
    --------
    >>> from helpers import models
    >>> models.draft_card(models.build("course", 3), (24, 28, 24), spacing_mm=8.0)["classes"]
    ['class 0', 'class 1', 'class 2']
    """
    ball = grids.mni(spacing_mm, tuple(shape)).centers_mm().square().sum(0).sqrt() < 60
    with frozen(model) as network:
        try:
            answers = network.logits(ball[None, None].float()).shape[1]
        except RuntimeError as error:
            raise ValueError(
                f"the network does not take a volume of {'x'.join(map(str, shape))} voxels: "
                f"{str(error).splitlines()[0]}"
            ) from error
    names = [f"class {k}" for k in range(answers)] if classes is None else list(classes)
    if len(names) != answers:
        raise ValueError(f"the network tells {answers} classes apart, got the names {names}")
    card = {
        "classes": names,
        "shape": list(shape),
        "spacing_mm": spacing_mm,
        "intensity": intensity,
        **({} if space == "mni" else {"space": space}),
    }
    check_card(card)
    return card
