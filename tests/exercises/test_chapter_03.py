import pytest

from helpers import exercises, models


def verdict(name, answer, capsys) -> bool:
    exercises.check(name, answer)
    said = capsys.readouterr().out
    assert ("right." in said) != ("not yet" in said)
    return "right." in said


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("3.1", 55_296),
        ("3.1", 55_296.0),
        ("3.3", (0.2, 0.5)),
        ("3.3", [1 / 5, 0.5]),
        ("3.2", "B"),
        ("3.2", "b"),
        ("3.4", "c"),
        ("3.4", "(C)"),
    ],
)
def test_right_answers(name, answer, capsys):
    assert verdict(name, answer, capsys)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("3.1", 64 * 27),  # one kernel an output channel
        ("3.1", 64 * 32 * 9),  # a 2D kernel
        ("3.1", 55_296 + 64),  # with offsets
        ("3.1", 64 * 64 * 27),  # the second convolution of the block
        ("3.3", (0.2, 0.2)),
        ("3.3", (0.5, 0.5)),
        ("3.3", (0.0, 0.5)),
        ("3.3", 0.2),
        ("3.2", "A"),
        ("3.2", "C"),
        ("3.4", "a"),
        ("3.4", "b"),
        ("3.4", "d"),
    ],
)
def test_tempting_wrong_answers(name, answer, capsys):
    assert not verdict(name, answer, capsys)


def test_the_counted_layer_is_the_network_s_own():
    layer = models.layer(models.build("course", classes=5), "block4.0")
    assert sum(p.numel() for p in layer.parameters()) == 55_296
