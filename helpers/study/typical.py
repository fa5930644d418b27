"""Ask a network with two classes who is typical, and which way leads from one class to the other.

Nobody has to say what a class looks like: the network tells the people of a study apart, and
typical is who stands in the middle of a class by its logits, a person and no average.
"""

import copy
import math
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from helpers import anatomy, models, runtime, warping
from helpers.cohorts import Cohort
from helpers.cohorts.finding import find_scans
from helpers.cohorts.scans import Scan
from helpers.errors import CannotWriteError
from helpers.grids import Grid
from helpers.study.folders import Study
from helpers.warping import Simulation


class Typical(NamedTuple):
    """One person of each class.

    Attributes
    ----------
    people : Cohort
        The two, with the intensities that the network reads.
    said : dict
        By the name of the class, for a record: ``scan``, its ``key``, ``log_odds``, and ``of`` how
        many people it is the middle.
    """

    people: Cohort
    said: dict[str, dict]


class Asked:
    """A network with two classes that is asked about brains whose median is 1.

    Parameters
    ----------
    model : Module
        With a card. A copy in single precision and evaluation mode is asked. Of the networks of a
        cross-validation, each person is shown to those that have not seen her, see `unseen`.
    grid : Grid
        The card's.
    steps : int
    blur_mm : float
        As of `helpers.study.simulating.simulate`.
    """

    def __init__(self, model: nn.Module, grid: Grid, *, steps: int, blur_mm: float):
        self.card, self.grid, self.classes = model.card, grid, list(model.card["classes"])
        self.options = {"steps": steps, "blur_voxels": blur_mm / grid.spacing_mm[0]}
        self.network = copy.deepcopy(model).float().eval().to(runtime.device())

    def fold(self, participant_id: str) -> int | None:
        """Return in which fold of a cross-validation a person was, if she was in one."""
        folds = self.network.fold_of if isinstance(self.network, models.FoldSet) else {}
        return folds.get(participant_id)

    def unseen(self, participant_id: str) -> "Asked":
        """Return what asks only the networks that have not seen a person in their training."""
        if not isinstance(self.network, models.FoldSet):
            return self
        other = copy.copy(self)
        other.network = models.Ensemble(self.network.not_seen(participant_id)).eval()
        return other

    def read(self, volume: Float[Tensor, "1 x y z"]) -> Float[Tensor, "1 1 x y z"]:
        """Return a brain with the intensities that the network reads."""
        return models.as_the_network_reads(volume[None], self.card)

    def log_odds(self, seen: Float[Tensor, "1 1 x y z"]) -> float:
        """Return the logit of the second class less that of the first.

        Raises
        ------
        ValueError
            If the network does not tell two classes apart.
        FloatingPointError
            If its answer is not finite.
        """
        logits = models.predict(self.network, seen)
        if logits.shape[1] != 2:
            raise ValueError(
                f"the network tells {logits.shape[1]} classes apart, its card names {self.classes}"
            )
        difference = float(logits[0, 1] - logits[0, 0])
        if not math.isfinite(difference):
            raise FloatingPointError(f"the network's answer is not finite: {logits[0].tolist()}")
        return difference

    def way(
        self,
        seen: Float[Tensor, "1 1 x y z"],
        label: int,
        known: Typical,
        *,
        steps: int | None = None,
    ) -> Simulation:
        """Deform a brain, as the network reads it, towards the typical person of a class.

        So tissue keeps its brightness while it moves. Were intensities standardised after each
        step, a network could be convinced by the scale alone: of a brain that is divided by its
        brightest voxel, the steepest slope leads to this voxel.
        """
        options = self.options if steps is None else {**self.options, "steps": steps}
        direction = ("remove", "inject")[label]
        found = warping.optimize(
            self.network, seen, known.people, direction, **options, progress=False
        )
        if not found.displacement.isfinite().all():
            raise FloatingPointError("the deformation is not finite")
        return found

    def minds(
        self, label: int, known: Typical, seen: Tensor, simulated: Tensor, of_file: Tensor
    ) -> dict:
        """Say what the network makes of a brain, of its simulation, and of that read from a file.

        The file's edge is sharp, and its intensities are standardised anew.
        """
        odds = {
            f"log_odds{when}": self.log_odds(brain)
            for when, brain in (("", seen), ("_after", simulated), ("_of_file", of_file))
        }
        sign = 1 if label else -1
        before, after = sign * odds["log_odds"], sign * odds["log_odds_after"]
        missing = sign * self.log_odds(known.people.volumes[[label]]) - before
        return {
            "predicted": self.classes[int(odds["log_odds"] > 0)],
            "predicted_after": self.classes[int(odds["log_odds_after"] > 0)],
            "predicted_of_file": self.classes[int(odds["log_odds_of_file"] > 0)],
            "target": self.classes[label],
            "target_probability": _probability(before),
            "target_probability_after": _probability(after),
            "share_of_the_way": round((after - before) / missing, 4) if missing > 0 else 1.0,
            **odds,
        }

    def check_template(self) -> None:
        """Raise a ValueError unless the network has an answer to the template's brain."""
        try:
            self.log_odds(self.read(anatomy.template(self.grid).t1))
        except Exception as error:
            raise ValueError(
                f"the network fails on the template's brain, so no scan can be simulated: "
                f"{type(error).__name__}: {error}"
            ) from error

    def check_way(self, known: Typical) -> None:
        """Raise a ValueError unless a first step leads from a typical person to the other class."""
        cause: Exception | None = None
        for label, person in enumerate(known.people.volumes):
            try:
                if self.way(person[None], 1 - label, known, steps=1).displacement.any():
                    return
            except Exception as error:
                cause = error
        said = f"{type(cause).__name__}: {cause}" if cause else "its slope is 0 in typical brains"
        raise ValueError(
            f"no deformation can be found for this network: {said}. It must be differentiable from "
            f"the volume to the logits"
        ) from cause

    def typical(self, whose: Study, *, locked_by: Study, progress: bool) -> Typical:
        """Find who stands in the middle of each class, in the whole folder of a study.

        Parameters
        ----------
        locked_by : Study
            In whose output other programs see which scans are taken: each is prepared once.

        Raises
        ------
        ValueError
            If the network finds only one class, no scan is good, or scans of two folders would be
            preprocessed under the same names.
        """
        _check_apart(whose, locked_by)
        scans = find_scans(whose.folder, masks=whose.masks)
        found: list[list[tuple[float, str, Scan]]] = [[], []]
        problem = ""
        for scan in runtime.progress(
            locked_by.in_turn(scans), label="who is typical", total=len(scans), show=progress
        ):
            try:
                asked = self.unseen(scan.participant_id)
                log_odds = asked.log_odds(self._seen(scan, whose))
            except CannotWriteError:
                raise
            except Exception as error:  # what is wrong with a scan is said when its turn comes
                problem = problem or f" ({scan.file}: {error})"
                continue
            # By distance from the border: of two in the middle, the one that asks for less.
            found[int(log_odds > 0)].append((abs(log_odds), scan.file, scan))
        good = sum(map(len, found))
        for name, people in zip(self.classes, found, strict=True):
            if not people:
                raise ValueError(
                    f"the network takes none of the {good} good scans of {len(scans)} in "
                    f"{whose.folder} for {name!r}, so nobody shows what is typical of it; name a "
                    f"study of people among whom it finds {self.classes} (--typical){problem}"
                )
        middle = [sorted(people)[(len(people) - 1) // 2] for people in found]
        said = {
            name: {
                "scan": file,
                "key": scan.key(self.grid),
                "log_odds": sign * size,
                "of": len(people),
            }
            for name, sign, (size, file, scan), people in zip(
                self.classes, (-1, 1), middle, found, strict=True
            )
        }
        people = Cohort(
            torch.cat([self._seen(scan, whose) for *_, scan in middle]),
            torch.tensor([0, 1]),
            tuple(self.classes),
            pd.DataFrame({"participant_id": [file for _, file, _ in middle]}),
            self.grid,
        )
        return Typical(people, said)

    def _seen(self, scan: Scan, whose: Study) -> Tensor:
        return self.read(scan.on(self.grid, whose.preprocessed)[0])


def _check_apart(whose: Study, study: Study) -> None:
    """Raise a ValueError if two folders would keep preprocessed scans under the same names."""
    if (
        whose.folder.resolve() == study.folder.resolve()
        or whose.preprocessed.resolve() != study.preprocessed.resolve()
    ):
        return
    both = {scan.file for scan in whose.scans} & {scan.file for scan in study.scans}
    if both:
        raise ValueError(
            f"{whose.folder} and {study.folder} both have {min(both)}, and both are preprocessed "
            f"in {study.preprocessed}; give the study that says what is typical (--typical) "
            f"an output of its own"
        )


def _probability(log_odds: float) -> float:
    return round(float(torch.tensor(log_odds, dtype=torch.float64).sigmoid()), 6)
