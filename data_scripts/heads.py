"""Whose heads the benchmark plants into: the template's, deformed and scanned, or real ones.

Both answer the same five questions. Those who are scored have been met by no network, no rival and
no choice of a width.
"""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from helpers import cohorts, models
from helpers.cohorts import Cohort

# Seeds that no training, validation or card has used.
SCORED_SEED, CHOICE_SEED, HEALTHY_SEED, COMPARED_SEED = 520, 521, 522, 523
SCORED_REAL_SEED = 530  # and those that follow, until enough people carry an effect
SCORED_PEOPLE, CHOICE_PEOPLE, COMPARED_PEOPLE = 24, 8, 20
LEARNERS = 1000  # at most, whose labels the label-aware maps have seen
REAL = "_real"  # ends the name of a task whose effects are planted into real heads
HELD_BACK = 0.2  # of the IXI people, from whom no network learns


@dataclass(frozen=True)
class SimulatedHeads:
    """Heads made of the template."""

    scored_seed = SCORED_SEED

    def scored(self, task: str) -> Cohort:
        """Return carriers of an effect, whose maps are scored."""
        return carriers(cohorts.simulate(task, 2 * SCORED_PEOPLE, self.scored_seed))[:SCORED_PEOPLE]

    def choice(self, task: str) -> Cohort:
        """Return other carriers, on whom the widths are chosen."""
        return carriers(cohorts.simulate(task, 2 * CHOICE_PEOPLE, CHOICE_SEED))[:CHOICE_PEOPLE]

    def healthy(self, task: str) -> Tensor:
        """Return the scans of healthy people, with whom a blind map compares."""
        people = cohorts.simulate("lesion", 200, HEALTHY_SEED)
        return people[people.labels == 0].volumes

    def compared(self, task: str) -> Tensor:
        """Return the baselines of expected gradients: healthy people, or both sexes."""
        people = cohorts.simulate(task, 2 * COMPARED_PEOPLE, COMPARED_SEED)
        return people[people.labels == 0 if task != "sex" else slice(None)].volumes

    def learners(self, task: str) -> Cohort:
        """Return people whom the first network of the task has learned from."""
        training = dict(models.pretrained(task).card["training"])
        subjects, seed = training.pop("subjects"), training.pop("seed")
        options = {name: training[name] for name in ("alone", "matched") if name in training}
        return cohorts.simulate(task, min(subjects, LEARNERS), seed, **options)


@dataclass(frozen=True)
class RealHeads:
    """Real scans: networks have learned from people of IXI, those scored are of another site.

    Parameters
    ----------
    ixi, ds002748 : path
        Folders in BIDS layout; IXI is downloaded when it is left out. The other is OpenNeuro's
        dataset of this number.
    """

    ixi: Path | None
    ds002748: Path
    scored_seed = SCORED_REAL_SEED

    def scored(self, task: str) -> Cohort:
        """Return carriers of an effect at the other site, whose maps are scored."""
        scans = cohorts.from_bids(self.ds002748)
        return carriers(planted(task, scans, self.scored_seed, plantings=4))[:SCORED_PEOPLE]

    def choice(self, task: str) -> Cohort:
        """Return other carriers, of IXI, on whom the widths are chosen."""
        return carriers(planted(task, self.people()[1], CHOICE_SEED))[:CHOICE_PEOPLE]

    def healthy(self, task: str) -> Tensor:
        """Return the scans that networks have learned from, before anything was planted."""
        return self.people()[0].volumes

    def compared(self, task: str) -> Tensor:
        """Return the baselines of expected gradients: people without an effect."""
        people = planted(task, self.people()[0], COMPARED_SEED)
        return people[people.labels == 0][:COMPARED_PEOPLE].volumes

    def learners(self, task: str) -> Cohort:
        """Return people whom the first network of the task has learned from."""
        training, scans = models.pretrained(task).card["training"], self.people()[0]
        plantings = min(training["plantings"], LEARNERS // len(scans))
        return planted(task, scans, training["seed"], plantings, alone=training["alone"])

    def people(self) -> tuple[Cohort, Cohort]:
        """Return the people of IXI from whom networks learn, and those held back."""
        scans = cohorts.ixi(self.ixi)
        return scans.split([1 - HELD_BACK, HELD_BACK], seed=0)


def planted(task: str, scans: Cohort, seed: int, plantings: int = 1, **options) -> Cohort:
    """Plant the effect of a task into real scans, into each as often as ``plantings`` says."""
    task = task.removesuffix(REAL)
    return cohorts.concatenate(
        [cohorts.simulate(task, base=scans, seed=seed + k, **options) for k in range(plantings)]
    )


def carriers(people: Cohort) -> Cohort:
    """Return people who carry an effect, everybody once."""
    found: dict[str, int] = {}
    for i, name in enumerate(people.participants["participant_id"]):
        if cohorts.planted_parts(people, i):
            found.setdefault(name, i)
    return people[list(found.values())]
