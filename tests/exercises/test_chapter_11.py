import math

import pytest
import torch

from helpers import exercises, fields


def verdict(name, answer, capsys) -> bool:
    exercises.check(name, answer)
    said = capsys.readouterr().out
    assert ("right." in said) != ("not yet" in said)
    return "right." in said


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("11.1", 100 * (1 - math.exp(-0.22))),
        ("11.1", 20),
        ("11.2", "a"),
        ("11.3", (-0.2, True)),
        ("11.4", "(A)"),
    ],
)
def test_right_answers(name, answer, capsys):
    assert verdict(name, answer, capsys)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("11.1", 22),  # takes the logarithm for a share
        ("11.1", 24.6),  # the other direction
        ("11.1", 0.1975),  # a share, not per cent
        ("11.2", "b"),
        ("11.2", "c"),
        ("11.3", (-0.2, False)),
        ("11.3", (-1.2, True)),  # forgets the identity
        ("11.3", (0.2, False)),
        ("11.3", -0.2),
        ("11.4", "b"),
        ("11.4", "c"),
    ],
)
def test_tempting_wrong_answers(name, answer, capsys):
    assert not verdict(name, answer, capsys)


def test_the_two_voxels_fold():
    u = torch.zeros(1, 3, 2, 2, 2)
    u[:, 0, 0], u[:, 0, 1] = 0.3, -0.9
    determinant = fields.jacobian_determinant(u)
    torch.testing.assert_close(determinant, torch.full_like(determinant, -0.2))
    assert float(fields.folding_fraction(u)) == 1


def test_a_looked_up_determinant_of_four_fifths_is_growth():
    indices = fields.identity((6, 7, 8))
    u = (0.8 ** (1 / 3) - 1) * indices
    grown = fields.log_expansion(u).exp()
    torch.testing.assert_close(grown, torch.full_like(grown, 1.25))
