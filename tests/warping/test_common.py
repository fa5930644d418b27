"""The deformation that all share: what classifiers ask for and see, and nothing else."""

import pytest
import torch
from torch import nn

from helpers import cohorts
from helpers.warping import common, potentials
from helpers.warping.simulators import deform


@pytest.fixture(scope="module")
def people():
    return cohorts.simulate("atrophy", subjects=12)


class TwoPlaces(nn.Module):
    """Reads two places, one of them four times as loudly, unless told otherwise."""

    def __init__(self, places, levels, weights=(4.0, 1.0)):
        super().__init__()
        self.register_buffer(
            "pattern", sum(w * p.float() / p.sum() for w, p in zip(weights, places, strict=True))
        )
        self.level = sum(w * level for w, level in zip(weights, levels, strict=True))

    def forward(self, volumes):
        return 10 * (self.level - torch.einsum("scxyz,xyz->s", volumes, self.pattern))[:, None]


@pytest.fixture(scope="module")
def sides(people):
    cores = cohorts.planted_structures("atrophy", people.grid, within=0.7)
    return [cores[f"lateral ventricle {side}"] for side in ("left", "right")]


@pytest.fixture(scope="module")
def differences(people):
    """What is seen: how much brighter than in the healthy, and the same over 4 voxels an axis."""
    healthy = potentials.pad(people.volumes[people.labels == 0]).mean(0)

    def seen(volumes):
        brighter = volumes - healthy
        return brighter, nn.functional.avg_pool3d(brighter, 4)

    return seen


def found(people, reader, typical, differences):
    return common.common_potential(
        reader, people, typical, differences, blur_voxels=2.5, generator=torch.Generator()
    )


@pytest.fixture
def few_steps(monkeypatch):
    """Enough for a network that reads two places."""
    monkeypatch.setattr(common, "_ASKING_STEPS", 12)
    monkeypatch.setattr(common, "_STEP_SIZE", 0.3)
    monkeypatch.setattr(common, "_SEEING_STEPS", 8)
    monkeypatch.setattr(common, "_TOGETHER", 4)


def test_the_common_potential_makes_typical_patients_and_all_places_alike(
    people, sides, differences, few_steps
):
    levels = [people.volumes[:, :, place].mean() for place in sides]
    reader = TwoPlaces(sides, levels).eval()
    groups = [people.volumes[people.labels == label] for label in (0, 1)]
    typical = torch.stack([reader(group).mean(0) for group in groups])
    assert typical[1] > typical[0]
    potential = found(people, reader, typical, differences)
    injected = deform(groups[0], potential.expand(len(groups[0]), -1, -1, -1), 2.5)
    way = typical[1] - typical[0]
    assert abs(reader(injected.volumes).mean(0) - typical[1]) < 0.05 * way
    change = injected.log_expansion.mean(0)[0]
    loud, quiet = (float(change[place].abs().mean()) for place in sides)
    assert 0.5 < loud / quiet < 2  # and not 4
    again = found(people, reader, typical, differences)
    assert torch.equal(again, potential)
    # The hippocampi are as ill, and can be seen. This reader does not ask for them.
    cores = cohorts.planted_structures("atrophy", people.grid, within=0.5)
    unread = [change[core].abs().mean() for name, core in cores.items() if "hippo" in name]
    assert max(unread) < 0.2 * quiet


def test_what_is_asked_for_and_cannot_be_seen_is_left_out(people, few_steps):
    """One who sees nothing but the left half: nothing becomes common far on the right."""
    cores = cohorts.planted_structures("atrophy", people.grid, within=0.7)
    sides = [cores[f"hippocampus {side}"] for side in ("left", "right")]
    levels = [people.volumes[:, :, place].mean() for place in sides]
    darker = TwoPlaces(sides, levels, weights=(1.0, 1.0))
    groups = [people.volumes[people.labels == label] for label in (0, 1)]

    def brighter(volumes):
        return -darker(volumes)

    typical = torch.stack([brighter(group).mean(0) for group in groups])
    assert typical[1] > typical[0]
    healthy, half = potentials.pad(groups[0]).mean(0), people.grid.shape[0] // 2

    def left(volumes):
        return ((volumes - healthy)[:, :, : half - 2],)

    def both(volumes):
        return (volumes - healthy,)

    shares = []
    for seen in (left, both):
        potential = found(people, brighter, typical, seen)
        change = deform(people.volumes[:1], potential[None], 2.5).log_expansion[0, 0]
        size = [float(change[place].abs().mean()) for place in sides]
        shares.append(size[1] / size[0])
    assert shares[0] < 0.2
    assert 3 * shares[0] < shares[1]


def test_classifiers_that_no_deformation_moves_are_refused(people, differences, few_steps):
    def reader(volumes):
        return 0 * volumes.mean((1, 2, 3, 4))[:, None]

    with pytest.raises(ValueError, match=r"100% of the way is left where tissue grows or shrinks"):
        found(people, reader, torch.tensor([[0.0], [1.0]]), differences)
