import pytest
import torch

from helpers import evaluation, exercises, runtime


def verdict(name, answer, capsys) -> bool:
    exercises.check(name, answer)
    said = capsys.readouterr().out
    assert ("right." in said) != ("not yet" in said)
    return "right." in said


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("7.1", (0.02, 0.5)),
        ("7.1", [0.02, 1 / 2]),
        ("7.2", "b"),
        ("7.2", "B)"),
        ("7.3", 0.005),
        ("7.3", (1 - 0.99) / 2),
        ("7.4", "c"),
    ],
)
def test_right_answers(name, answer, capsys):
    assert verdict(name, answer, capsys)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("7.1", (0.5, 0.5)),
        ("7.1", (0.5, 0.02)),  # the other way round
        ("7.1", (2, 50)),  # in per cent
        ("7.1", 0.02),
        ("7.2", "a"),
        ("7.2", "c"),
        ("7.3", 0.01),  # one mask only
        ("7.3", 0.5),  # in per cent
        ("7.4", "a"),
        ("7.4", "b"),
    ],
)
def test_tempting_wrong_answers(name, answer, capsys):
    assert not verdict(name, answer, capsys)


def test_random_numbers_score_as_7_1_says(capsys):
    shape = (30, 1, 20, 24, 28)
    planted = torch.zeros(shape, dtype=torch.bool)
    planted.flatten(1)[:, : round(0.02 * 20 * 24 * 28)] = True
    noise = torch.rand(shape, generator=runtime.generator(0))
    score = evaluation.localization(noise, planted, within=noise > -1).mean()
    assert score["relevance_rank"] == pytest.approx(0.02, abs=0.005)
    assert score["voxel_auc"] == pytest.approx(0.5, abs=0.01)


def test_masks_of_the_share_of_7_3_score_0_99_without_a_common_voxel():
    a = (torch.arange(2000) < 0.005 * 2000).view(1, 1, 20, 10, 10)
    b = a.flip(2)
    assert evaluation.dice(a, b).item() == 0
    assert evaluation.dice_with_background(a, b).item() == pytest.approx(0.99)
