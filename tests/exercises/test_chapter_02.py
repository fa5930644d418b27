"""Right answers of chapter 2 are accepted, tempting wrong ones are not."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from helpers import cohorts, exercises, grids
from helpers.cohorts.shapes import SHAPES, Body


def says(capsys, name, answer):
    exercises.check(name, answer)
    return capsys.readouterr().out


def bodies():
    """Return the four shapes of the exercise."""
    center = torch.tensor([-26.0, -10.0, 24.0])
    return [Body(shape, center, torch.zeros(3), 15.0, 1.7) for shape in SHAPES]


GRID = grids.mni()
RIGHT_VOLUMES = {b.shape: float(b.occupancy(GRID).sum()) * 64 / 1000 for b in bodies()}
COUNTED = {b.shape: int(b.mask(GRID).sum()) * 64 / 1000 for b in bodies()}

RIGHT = [
    ("2.1", RIGHT_VOLUMES),
    ("2.1", {shape: torch.tensor(volume) for shape, volume in RIGHT_VOLUMES.items()}),
    ("2.2", "b"),
    ("2.2", " B) "),
    ("2.3", "brain volume"),
    ("2.3", "Brain volume"),
]
WRONG = [
    ("2.1", COUNTED),
    ("2.1", {shape: 1000 * volume for shape, volume in RIGHT_VOLUMES.items()}),
    ("2.1", {"ball": RIGHT_VOLUMES["ball"]}),
    ("2.1", list(RIGHT_VOLUMES.values())),
    ("2.2", "a"),
    ("2.2", "c"),
    ("2.3", "mean intensity"),
    ("2.3", "border"),
    ("2.4", True),
    ("2.4", pd.DataFrame()),
]


@pytest.mark.parametrize(("name", "answer"), RIGHT)
def test_right_answer(name, answer, capsys):
    assert f"Exercise {name}: right." in says(capsys, name, answer)


@pytest.mark.parametrize(("name", "answer"), WRONG)
def test_tempting_wrong_answer(name, answer, capsys):
    assert f"Exercise {name}: not yet." in says(capsys, name, answer)


def audit(**rings):
    """Return an audit in which the named statistics are unsafe."""
    rows = ["mean intensity", "spread", "smoothness", "noise level", "brain volume", "border"]
    safe = [not rings.get(row.replace(" ", "_"), False) for row in rows]
    return pd.DataFrame({"statistic": rows, "auc": 0.5, "safe": safe})


def test_an_audit_that_shows_brightness_is_accepted(capsys):
    assert "2.4: right." in says(capsys, "2.4", audit(mean_intensity=True, border=True))


@pytest.mark.parametrize(
    "rings",
    [{}, {"noise_level": True}, {"mean_intensity": True, "smoothness": True}],
    ids=["clean", "noise", "blur"],
)
def test_audits_of_other_leaks_are_refused(rings, capsys):
    assert "2.4: not yet." in says(capsys, "2.4", audit(**rings))


def test_the_check_reads_a_real_audit(capsys):
    cohort = cohorts.simulate("lesion", subjects=30)
    cohort = replace(cohort, labels=(cohort.labels > 0).long(), classes=("healthy", "patient"))
    factor = 1 + 0.3 * cohort.labels.view(-1, 1, 1, 1, 1)
    table = cohorts.audit_leaks(replace(cohort, volumes=cohort.volumes * factor))
    assert not table.set_index("statistic").loc["mean intensity", "safe"]
    assert "could not read" not in says(capsys, "2.4", table)
