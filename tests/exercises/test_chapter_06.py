import pytest
import torch

from helpers import cohorts, exercises, models
from helpers.attribution.incremental import Undisturbed
from helpers.attribution.occlusions import occlusion


def verdict(name, answer, capsys) -> bool:
    exercises.check(name, answer)
    said = capsys.readouterr().out
    assert ("right." in said) != ("not yet" in said)
    return "right." in said


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("6.1", 1573),
        ("6.1", torch.tensor(11 * 13 * 11)),
        ("6.2", 6),
        ("6.2", 6.0),
        ("6.3", (0.95, 3.73)),
        ("6.3", [0.95, torch.tensor(3.73)]),
        ("6.4", "b"),
        ("6.4", "(B)"),
    ],
)
def test_right_answers(name, answer, capsys):
    assert verdict(name, answer, capsys)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("6.1", 12 * 14 * 12),  # one window too many along each axis
        ("6.1", 6 * 7 * 6),  # side by side
        ("6.1", 10 * 12 * 10),  # forgets the first one
        ("6.2", 5),  # 10 / 2
        ("6.2", 4),  # no convolution
        ("6.2", 10),  # no pooling
        ("6.3", (1.0, 3.78)),  # forgets the goal
        ("6.3", (0.95, 0.73)),  # forgets the area
        ("6.3", (3.73, 0.95)),  # the other way round
        ("6.3", 0.95),
        ("6.4", "a"),
        ("6.4", "c"),
    ],
)
def test_tempting_wrong_answers(name, answer, capsys):
    assert not verdict(name, answer, capsys)


def test_occlusion_has_as_many_windows_as_the_exercise_says(monkeypatch):
    windows = []
    followed = Undisturbed.with_patches

    def counting(self, patches, corners):
        windows.extend(map(tuple, corners.tolist()))
        return followed(self, patches[:1], corners[:1]).expand(len(patches), -1)

    monkeypatch.setattr(Undisturbed, "with_patches", counting)
    everywhere = 0.5 + torch.rand(1, 1, 48, 56, 48)  # no window covers background only
    with torch.no_grad():
        occlusion(models.build("course").eval(), everywhere, 0, window=8, stride=4, progress=False)
    assert len(windows) == len(set(windows)) == 1573


@pytest.mark.parametrize(("first", "changed"), [(16, 6), (17, 5)])
def test_a_window_reaches_as_far_as_the_exercise_says(first, changed):
    layers = torch.nn.Sequential(torch.nn.Conv1d(1, 1, 3, padding=1), torch.nn.MaxPool1d(2))
    torch.nn.init.ones_(layers[0].weight)
    volume = torch.arange(48.0)[None, None]  # rising: a change cannot hide behind a maximum
    covered = volume.clone()
    covered[..., first : first + 8] = 1000
    assert int((layers(volume) != layers(covered)).sum()) == changed


def test_a_dark_window_and_no_other_makes_patients_of_controls_as_the_exercise_says():
    network = models.pretrained("atrophy")
    people = cohorts.simulate(subjects=8, **network.card["held_out"]["atrophy"]["cohort"])
    controls = people.volumes[people.labels == 0]

    def push(center_mm, fill):
        corner = [round(float(v)) - 4 for v in people.grid.voxels(center_mm)]
        hidden = controls.clone()
        hidden[(..., *(slice(c, c + 8) for c in corner))] = fill
        before, after = (models.predict(network, v)[:, 1] for v in (controls, hidden))
        return float((after - before).mean())

    air, fluid, median, bright = (push((15, -4, 20), fill) for fill in (0.0, 0.6, 1.0, 1.4))
    assert fluid > median > air > 3
    assert bright < 0
    assert max(push((20, 44, 20), fill) for fill in (0.0, 0.6, 1.0)) < 1.5
