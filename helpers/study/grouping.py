"""What a group of maps says together: means, regions with names, and tests with covariates."""

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from helpers import anatomy, attribution, evaluation, fields, grids, runtime
from helpers.anatomy import Atlas
from helpers.cohorts import participants
from helpers.cohorts.scans import Scan, on_grid
from helpers.errors import NotRegisteredError
from helpers.evaluation.two_truths import smoothed
from helpers.grids import Grid
from helpers.study.folders import Study
from helpers.study.records import SIMULATED, read, write_table
from helpers.study.training import HEAD_SIZE


def group(
    study: Study,
    *,
    method: str,
    label: str | None = None,
    classes: Sequence[str] | None = None,
    covariates: Sequence[str] = (),
    atlas: Atlas | str | None = None,
    smooth_mm: float = 8.0,
    permutations: int = 1000,
    level: float = 0.05,
    seed: int = 0,
) -> pd.DataFrame:
    """Average the maps that `explain` or `simulate` has made, name their regions, and test them.

    Writes in ``group``, with the method's name and MNI space in theirs: the mean map (of each
    class, with a label), with the label's name (and those of the classes, if they are named) the t
    statistic and the corrected p (as minus its logarithm), all NIfTI;
    ``_peaks.tsv`` (clusters beyond chance), ``_means.tsv`` (a row a region and side: mean over
    people and its interval) and ``_group.json`` (how: maps, people, options).

    Parameters
    ----------
    study : Study
        Maps of several scans of one person are averaged: a person counts once.
    method : str
        Whose maps; ``"simulated"`` for the log expansions that `simulate` has made.
    label : str, optional
        Column of ``participants.tsv`` with two groups to compare. Default: do the maps differ from
        zero?
    classes : sequence of str, optional
        The two values that count, in their order: t is positive where the second is higher.
    covariates : sequence of str
        Columns whose part is taken out, such as ``"age"``, ``"site"``, or ``"volume_ratio"``, the
        head size that the preprocessing has measured.
    atlas : Atlas or str, optional
        On the maps' grid, or a name for `helpers.anatomy.atlas`; default tissues.
    smooth_mm : float
        Width (FWHM) of the Gaussian that the maps are smoothed with before they are tested,
        default 8: an effect's place differs between people. 0 leaves them as they are.
    permutations, level, seed
        As in `helpers.evaluation.group_test`.

    Returns
    -------
    DataFrame
        The peaks.

    Raises
    ------
    FileNotFoundError
        If there are no maps of the method, or no ``participants.tsv`` where one is needed.
    NotRegisteredError
        If the network has seen scans in their own space: a mean over people says nothing then.
    ValueError
        If the label has not two groups, a covariate is missing or constant, or as `group_test`.

    Warns
    -----
    UserWarning
        If groups are compared by maps that are about each scan's own predicted class: a difference
        may then be one of the questions and not of the people.

    Examples
    --------
    >>> from helpers import study
    >>> mine = study.Study("my_study", "results")  # doctest: +SKIP
    >>> study.group(mine, method="lrp", label="sex", covariates=["age"])  # doctest: +SKIP
    """
    if smooth_mm < 0:
        raise ValueError(f"smooth_mm is the width of a Gaussian, 0 or more, got {smooth_mm}")
    people, maps, grid = maps_of_people(study, method)
    labels, names = None, None
    settings = read(study.output / f"desc-{method.replace('_', '')}_map.json", "ignored") or {}
    if label is not None:
        labels, names = _two_groups(people, label, classes)
        kept = labels >= 0
        people, maps, labels = people[kept.numpy()], maps[kept], labels[kept]
        if settings.get("target") in ("predicted", "the other class"):
            warnings.warn(
                "each map is about the class that was predicted for its scan, so the groups may "
                "differ in the question and not in the answer: make all for one class (--target), "
                "into another output folder",
                stacklevel=2,
            )
    table = _covariates(people, covariates)
    if isinstance(atlas, str):
        atlas = anatomy.atlas(grid, atlas)
    elif atlas is None:
        atlas = anatomy.atlas(grid)
    brain = anatomy.template(grid).mask[None]
    within = brain.expand_as(maps)
    sigma = smooth_mm / fields.FWHM_PER_SD / grid.spacing_mm[0]
    found = evaluation.group_test(
        smoothed(maps, form="signed", width=sigma, within=within),
        labels,
        grid,
        covariates=table,
        atlas=atlas,
        within=brain,
        permutations=permutations,
        level=level,
        seed=seed,
    )
    stem = f"{on_grid(grid)[1:]}_desc-{method.replace('_', '')}"
    study.describe()
    means = {"": maps.mean(0)}
    if names is not None:
        of_class = [maps[labels == k].mean(0) for k in range(2)]
        means |= {f"{label} {name}": mean for name, mean in zip(names, of_class, strict=True)}
    for name, mean in means.items():
        grids.save(mean, grid, study.group(f"{stem}{_plain(name)}_mean.nii.gz"))
    contrast = [label or "", *(classes or ())]
    stem = f"{stem}{_plain(' '.join(contrast))}"
    grids.save(found.t, grid, study.group(f"{stem}_t.nii.gz"))
    grids.save(found.log10_p, grid, study.group(f"{stem}_log10p.nii.gz"))
    write_table(found.peaks, study.group(f"{stem}_peaks.tsv"))
    write_table(region_means(maps, labels, names, grid, atlas), study.group(f"{stem}_means.tsv"))
    how = {
        "maps": settings,
        "people": people["participant_id"].tolist(),
        "label": label,
        "classes": names,
        "covariates": list(covariates),
        "regions": len(atlas.names),
        "smooth_mm": smooth_mm,
        "permutations": permutations,
        "level": level,
        "seed": seed,
    }
    runtime.write_json(study.group(f"{stem}_group.json"), how)
    return found.peaks


def maps_of_people(
    study: Study, method: str, *, scans: Sequence[Scan] | None = None
) -> tuple[pd.DataFrame, Float[Tensor, "person 1 x y z"], Grid]:
    """Return the maps of a method in MNI space, one a person, and what is known of the people.

    Parameters
    ----------
    study : Study
    method : str
        As of `group`.
    scans : sequence of Scan, optional
        Only these of the study.

    Raises
    ------
    FileNotFoundError
        If there are none.
    NotRegisteredError
        If the network has seen scans in their own space.
    ValueError
        If the method is unknown or the maps lie on several grids.
    """
    known_methods = sorted([*attribution.METHODS, SIMULATED])
    if method not in known_methods:
        raise ValueError(f"unknown method {method!r}; there are {known_methods}")
    label = method.replace("_", "")
    settings = read(study.output / f"desc-{label}_map.json", "ignored") or {}
    if settings.get("space") == "native":
        raise NotRegisteredError(
            f"the maps of {method} in {study.output} lie on scans that were not registered (space "
            f'= "native" in the network\'s card), so a voxel is another place in each of them and '
            f"their mean says nothing. People can be compared by their own regions: brain-cnns "
            f"explain --segmentations writes {study.group(f'desc-{label}_ownregions.tsv')}"
        )
    rows, maps, found = [], [], set()
    for scan in study.scans if scans is None else scans:
        record = read(scan.derived(study.output, f"_desc-{label}_map.json"), "it is left out")
        if record is None or record.get("problem") is not None:
            continue
        values, grid = grids.read(_in_mni(study, scan, label))
        found.add(grid)
        maps.append(torch.from_numpy(values)[None])
        rows.append({"participant_id": scan.participant_id, HEAD_SIZE: record[HEAD_SIZE]})
    if not maps:
        raise FileNotFoundError(
            f"{study.output} holds no maps of {method}; make them with `brain-cnns "
            f"{'simulate' if method == SIMULATED else 'explain'}`"
        )
    if len(found) > 1:
        raise ValueError(f"the maps of {method} in {study.output} lie on {len(found)} grids")
    table = pd.DataFrame(rows)
    people = table.groupby("participant_id", sort=False)[HEAD_SIZE].mean().reset_index()
    of_each = [
        torch.stack([maps[i] for i in table.index[table["participant_id"] == name]]).mean(0)
        for name in people["participant_id"]
    ]
    called = people["participant_id"]
    known = participants.read(study.folder, required=False, called=called)
    if known is not None:
        known = participants.typed(known).drop(columns=HEAD_SIZE, errors="ignore")
        people = people.merge(known, on="participant_id", how="left")
    return people, torch.stack(of_each), found.pop()


def region_means(
    maps: Float[Tensor, "person 1 x y z"],
    labels: Tensor | None,
    names: Sequence[str] | None,
    grid: Grid,
    atlas: Atlas,
) -> pd.DataFrame:
    """Return mean and 95 % interval over people of each region and side, of each class."""
    rows = []
    for person, one in enumerate(maps):
        table = evaluation.by_region(one[None], grid, atlas)[
            ["region", "side", "volume_ml", "mean"]
        ]
        group_name = "all" if labels is None else names[int(labels[person])]
        rows.append(table.assign(subject=person, group=group_name))
    table = pd.concat(rows, ignore_index=True)
    by = ["group", "region", "side"]
    found = evaluation.intervals(table[[*by, "subject", "mean"]], by=by).drop(columns="measure")
    sizes = table[["region", "side", "volume_ml"]].drop_duplicates(["region", "side"])
    found = found.merge(sizes, on=["region", "side"])
    return found.sort_values("mean", key=np.abs, ascending=False, ignore_index=True)


def _in_mni(study: Study, scan: Scan, label: str):
    """Return where a scan's map in MNI space lies, whatever its grid."""
    own = scan.derived(study.output, "")
    found = sorted(own.parent.glob(f"{own.name}_space-*_desc-{label}_map.nii.gz"))
    if len(found) != 1:
        raise FileNotFoundError(
            f"expected one map {own}_space-*_desc-{label}_map.nii.gz, found {len(found)}; run "
            f"what made it again"
        )
    return found[0]


def _two_groups(
    people: pd.DataFrame, label: str, classes: Sequence[str] | None
) -> tuple[Tensor, list[str]]:
    """Return 0 or 1 for each person, -1 for who is in neither group, and the groups' names."""
    if label not in people:
        raise ValueError(
            f"participants.tsv has no column {label!r}; it has "
            f"{[name for name in people if name not in ('participant_id', HEAD_SIZE)]}"
        )
    values = people[label].astype(str).where(people[label].notna(), "")
    names = sorted(set(values) - {""}) if classes is None else list(classes)
    if len(names) != 2:
        raise ValueError(
            f"expected two groups of {label!r} to compare, got {names}; name two with --classes"
        )
    missing = [name for name in names if name not in set(values)]
    if missing:
        raise ValueError(
            f"nobody with a map has {label} {missing}; there are {sorted(set(values))}"
        )
    return torch.tensor([names.index(value) if value in names else -1 for value in values]), names


def _covariates(people: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame | None:
    unknown = [name for name in names if name not in people]
    if unknown:
        raise ValueError(f"participants.tsv has no column {unknown}; it has {list(people)}")
    return people[list(names)] if names else None


def _plain(name: str) -> str:
    """Return a name as a part of a BIDS label: letters and digits only."""
    return "".join(letter for letter in name.title() if letter.isalnum())
