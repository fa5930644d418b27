import pytest
from sklearn.metrics import roc_auc_score
from torch.nn import functional as F

from helpers import anatomy, cohorts, exercises


def verdict(name, answer, capsys) -> bool:
    exercises.check(name, answer)
    said = capsys.readouterr().out
    assert ("right." in said) != ("not yet" in said)
    return "right." in said


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("8.1", "b"),
        ("8.1", "(B)"),
        ("8.2", 0.97),
        ("8.2", 1.0),
        ("8.2", 0.02),  # lower in patients
        ("8.3", (0, 1)),
        ("8.3", [0.0, 1.0]),
        ("8.4", "c)"),
    ],
)
def test_right_answers(name, answer, capsys):
    assert verdict(name, answer, capsys)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("8.1", "a"),
        ("8.1", "c"),
        ("8.2", 0.71),  # the sum
        ("8.2", 97),  # in per cent
        ("8.3", (1, 0)),  # the other way round
        ("8.3", (0.5, 0.5)),  # a coin
        ("8.3", 0.5),
        ("8.4", "a"),
        ("8.4", "b"),
    ],
)
def test_tempting_wrong_answers(name, answer, capsys):
    assert not verdict(name, answer, capsys)


@pytest.fixture(scope="module")
def study():
    return cohorts.simulate("shortcut", subjects=16, seed=102)


@pytest.fixture(scope="module")
def beyond(study):
    brain = anatomy.template(study.grid).mask.float()
    return study.volumes * ~(F.max_pool3d(brain, 3, stride=1, padding=1) > 0)


def test_the_sum_is_too_blunt_and_the_brightest_voxel_solves_8_2(study, beyond, capsys):
    summed = roc_auc_score(study.labels, beyond.flatten(1).sum(1))
    brightest = roc_auc_score(study.labels, beyond.flatten(1).amax(1))
    assert not verdict("8.2", summed, capsys)
    assert verdict("8.2", brightest, capsys)


def test_nothing_that_8_2_recommends_is_refused(study, beyond, capsys):
    """Left minus right, summed, is refused (0.78 in the chapter), so it is no hint either."""
    left, right = beyond.chunk(2, dim=2)
    difference = left.flatten(1).sum(1) - right.flatten(1).sum(1)
    assert not verdict("8.2", roc_auc_score(study.labels, difference), capsys)
    exercises.check("8.2", 0.78)
    assert "both sides" not in capsys.readouterr().out
