import pytest

from helpers import exercises


def test_unknown_exercise():
    with pytest.raises(ValueError, match="there is no exercise '99.1'"):
        exercises.check("99.1", 1)


def test_no_answer_wrong_answer_and_one_of_a_wrong_kind(capsys):
    exercises.check("1.1", ...)
    assert "three dots" in capsys.readouterr().out
    exercises.check("1.1", object())
    assert "not yet" in capsys.readouterr().out
