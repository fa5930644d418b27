"""A cohort: volumes, labels, participants and, where somebody planted it, the truth."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from helpers import grids, runtime, tensors
from helpers.cohorts.report import Report
from helpers.grids import Grid


@dataclass(frozen=True, eq=False)
class Truth:
    """What was planted, voxel by voxel.

    Attributes
    ----------
    mask : tensor of shape (subject, 1, x, y, z)
        Voxels whose value the label decides. Empty in a subject without an effect.
    place : tensor of shape (subject, 1, x, y, z)
        Where the effect is, or in a control *would be*: every subject draws a place in the same
        way. Comparing outside all places is how the leak audit stays fair.
    shortcut : tensor of shape (subject, 1, x, y, z)
        Voxels that go with the label without being the disease (a scanner tag).
    log_expansion : tensor of shape (subject, 1, x, y, z), optional
        Planted growth (positive) or shrinkage of tissue; None where the effect is no deformation.
    """

    mask: Bool[Tensor, "subject 1 x y z"]
    place: Bool[Tensor, "subject 1 x y z"]
    shortcut: Bool[Tensor, "subject 1 x y z"]
    log_expansion: Float[Tensor, "subject 1 x y z"] | None = None

    def __getitem__(self, index) -> "Truth":
        values = (self.mask, self.place, self.shortcut, self.log_expansion)
        return Truth(*(None if v is None else tensors.rows(v, index) for v in values))


@dataclass(frozen=True, eq=False)
class Cohort(Dataset):
    """Subjects with everything that belongs to them, in the same order everywhere.

    Works as a torch Dataset: ``cohort[3]`` is ``(volume, label)``. A slice, a list of positions or
    a boolean mask gives a smaller `Cohort`, with volumes of its own. Where these are more than a
    gigabyte, they lie on the disk and not in memory, see `helpers.tensors`.

    Attributes
    ----------
    volumes : tensor of shape (subject, 1, x, y, z)
        Background exactly 0, median of the brain near 1, no unit.
    labels : tensor of shape (subject,)
        Class of each subject as an integer.
    classes : tuple of str
        Name of each class; ``classes[label]``.
    participants : DataFrame
        One row a subject, with at least the column ``participant_id``.
    grid : Grid
    truth : Truth, optional
        What was planted; None for real scans with nothing planted.
    parameters : list, optional
        For simulated subjects, everything that made each of them.
    reports : list of Report, optional
        For real scans, how each was moved to MNI space; `cohorts.to_scan` brings maps back.

    Raises
    ------
    ValueError
        If the parts do not fit together, or volumes are constant or hold NaN.
    """

    volumes: Float[Tensor, "subject 1 x y z"]
    labels: Int[Tensor, "subject"]
    classes: tuple[str, ...]
    participants: pd.DataFrame
    grid: Grid
    truth: Truth | None = None
    parameters: Sequence[Any] | None = field(default=None, repr=False)
    reports: Sequence[Report] | None = field(default=None, repr=False)

    def __post_init__(self):
        grids.check_volumes(self.volumes, self.grid)
        counts = {
            "volumes": len(self.volumes),
            "labels": len(self.labels),
            "participants": len(self.participants),
        }
        if self.truth is not None:
            counts["truth"] = len(self.truth.mask)
        if self.reports is not None:
            counts["reports"] = len(self.reports)
        if len(set(counts.values())) != 1:
            raise ValueError(f"every part of a cohort has one row a subject, got {counts}")
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(
            self.classes
        ):
            raise ValueError(
                f"labels run from {int(self.labels.min())} to {int(self.labels.max())}, "
                f"but there are {len(self.classes)} classes: {self.classes}"
            )
        object.__setattr__(self, "participants", self.participants.reset_index(drop=True))

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        counts = torch.bincount(self.labels, minlength=len(self.classes)).tolist()
        groups = ", ".join(f"{n} {name}" for name, n in zip(self.classes, counts, strict=True))
        return (
            f"Cohort({len(self)} subjects: {groups}; {'x'.join(map(str, self.grid.shape))} voxels)"
        )

    def __getitem__(self, index):
        if isinstance(index, (int, np.integer)):
            return self.volumes[index], self.labels[index]
        if isinstance(index, np.ndarray):
            index = index.copy()  # pandas gives such as cannot be written to; torch warns of them
        positions = torch.arange(len(self))[index]
        rows = positions.tolist()
        return replace(
            self,
            volumes=tensors.rows(self.volumes, positions),
            labels=self.labels[positions],
            participants=self.participants.iloc[rows],
            truth=None if self.truth is None else self.truth[positions],
            parameters=None if self.parameters is None else [self.parameters[i] for i in rows],
            reports=None if self.reports is None else [self.reports[i] for i in rows],
        )

    def split(
        self,
        fractions: Sequence[float],
        seed: int = 0,
        *,
        stratify: str | None = "label",
    ) -> "tuple[Cohort, ...]":
        """Divide the subjects into parts that share nobody.

        Parameters
        ----------
        fractions : sequence of float
            Sizes of the parts; they sum to 1 at most. Over all strata a part gets its share of
            the people, rounded, and within each stratum one more or fewer at most.
        seed : int
            Same seed, same parts.
        stratify : str, optional
            Column of ``participants`` whose values every part gets in the same proportion;
            ``"label"`` (default) stands for the class, None mixes freely. All rows of one
            ``participant_id`` always go to the same part.

        Raises
        ------
        ValueError
            If fractions are no shares, a part would be empty, or there is no such column.

        Examples
        --------
        >>> from helpers import cohorts
        >>> train, test = cohorts.simulate("lesion", subjects=20).split([0.5, 0.5])
        >>> len(train), len(test)
        (10, 10)
        """
        rows = self._rows_of_parts(fractions, seed, stratify)
        return tuple(self[part] for part in rows)

    def folds(
        self, number: int = 5, seed: int = 0, *, stratify: str | None = "label"
    ) -> Int[Tensor, "subject"]:
        """Return the fold of each subject, for a cross-validation: everybody is tested once.

        Parameters
        ----------
        number : int
            Default 5.
        seed, stratify
            As in `split`: all rows of a person are in one fold, and every fold has its share of
            each class.

        Raises
        ------
        ValueError
            If there are fewer than 2 folds, or a class has fewer people than there are folds.

        Examples
        --------
        >>> from helpers import cohorts
        >>> cohorts.simulate("lesion", subjects=10).folds(2).bincount()
        tensor([5, 5])
        """
        if number < 2:
            raise ValueError(f"a cross-validation has 2 folds or more, got {number}")
        people = self.participants["participant_id"]
        of_class = {name: (self.labels == label).numpy() for label, name in enumerate(self.classes)}
        if stratify != "label":
            of_class = {"": np.ones(len(self), dtype=bool)}
        for name, own in of_class.items():
            there = people[own].nunique()
            if there < number:
                raise ValueError(
                    f"{number} folds need at least {number} people"
                    f"{f' of each class, there are {there} of {name!r}' if name else ''}; "
                    f"take fewer folds"
                )
        found = torch.full((len(self),), -1)
        for fold, rows in enumerate(self._rows_of_parts([1 / number] * number, seed, stratify)):
            found[rows] = fold
        return found

    def _rows_of_parts(
        self, fractions: Sequence[float], seed: int, stratify: str | None
    ) -> list[Int[np.ndarray, "row"]]:
        """Return the rows of each part of a division that shares nobody."""
        fractions = np.asarray(list(fractions), dtype=float)
        if (fractions <= 0).any() or fractions.sum() > 1 + 1e-9:
            raise ValueError(f"fractions must be positive and sum to 1 at most, got {fractions}")
        names = self.participants["participant_id"].to_numpy()
        if stratify is None:
            strata = np.zeros(len(self), dtype=int)
        elif stratify == "label":
            strata = self.labels.numpy()
        elif stratify in self.participants:
            strata = pd.factorize(self.participants[stratify])[0]
        else:
            raise ValueError(
                f"no column {stratify!r} to stratify by; there are "
                f"'label' and {list(self.participants.columns)}"
            )
        # A person is placed once, by the stratum of the first row that carries the name.
        people, first = np.unique(names, return_index=True)
        generator = runtime.generator(seed)
        order = torch.randperm(len(people), generator=generator).numpy()
        found, stratum_of = np.unique(strata[first[order]], return_inverse=True)
        served = torch.randperm(len(found), generator=generator).tolist()
        counts = _apportioned(np.bincount(stratum_of), fractions, served)
        empty = np.flatnonzero(counts.sum(0) == 0).tolist()
        if empty:
            raise ValueError(
                f"parts {empty} would be empty: {fractions[empty[0]]:g} of {len(people)} people is "
                f"nobody; take larger fractions or more people"
            )
        part_of = np.full(len(people), -1)
        for stratum, row in enumerate(counts):
            members = order[stratum_of == stratum]
            part_of[members[: row.sum()]] = np.repeat(np.arange(len(row)), row)
        row_part = part_of[np.searchsorted(people, names)]
        return [np.flatnonzero(row_part == part) for part in range(len(fractions))]


def _apportioned(
    sizes: Int[np.ndarray, "stratum"], fractions: Float[np.ndarray, "part"], served: Sequence[int]
) -> Int[np.ndarray, "stratum part"]:
    """Return how many people of each stratum go to each part.

    Every part gets the whole people of its share in each stratum. Who is left over goes, stratum by
    stratum, to the parts that miss most of what they should have in all.
    """
    shares = np.append(fractions, max(0.0, 1 - fractions.sum()))  # the last is nobody's
    counts = np.floor(np.outer(sizes, shares) + 1e-9).astype(int)
    missing = _largest_remainder(sizes.sum() * shares) - counts.sum(0)
    for stratum in served:
        left_over = sizes[stratum] - counts[stratum].sum()
        lucky = np.argsort(-missing, kind="stable")[:left_over]
        counts[stratum, lucky] += 1
        missing[lucky] -= 1
    return counts[:, :-1]


def _largest_remainder(quotas: Float[np.ndarray, "part"]) -> Int[np.ndarray, "part"]:
    """Round quotas to whole numbers of the same sum."""
    whole = np.floor(quotas + 1e-9).astype(int)
    rest = round(quotas.sum()) - whole.sum()
    whole[np.argsort(whole - quotas, kind="stable")[:rest]] += 1
    return whole


def concatenate(parts: Sequence[Cohort]) -> Cohort:
    """Put cohorts of the same classes and grid one behind the other.

    Parts with and without a truth do not mix: a missing truth is not an empty one.
    """
    first = parts[0]
    if any(part.classes != first.classes or part.grid != first.grid for part in parts):
        raise ValueError("cohorts can be put together only with the same classes and grid")
    truths = [part.truth for part in parts]
    if len({truth is None for truth in truths}) > 1:
        raise ValueError("some of the cohorts have a planted truth and some have none")
    return Cohort(
        volumes=tensors.joined([part.volumes for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
        classes=first.classes,
        participants=pd.concat([part.participants for part in parts]),
        grid=first.grid,
        truth=None if first.truth is None else _concatenate_truths(truths),
        parameters=None
        if any(part.parameters is None for part in parts)
        else [parameters for part in parts for parameters in part.parameters],
        reports=None
        if any(part.reports is None for part in parts)
        else [report for part in parts for report in part.reports],
    )


def _concatenate_truths(truths: list[Truth]) -> Truth:
    joined = {}
    for name in ("mask", "place", "shortcut", "log_expansion"):
        values = [getattr(truth, name) for truth in truths]
        joined[name] = None if any(v is None for v in values) else tensors.joined(values)
    return Truth(**joined)
