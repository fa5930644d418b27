import torch

from helpers import warping
from helpers.warping import hardening

SHAPE = (16, 20, 24)


def test_disturbances_keep_the_background_and_the_argument():
    volumes = torch.zeros(3, 1, *SHAPE)
    volumes[:, :, 4:12, 5:15, 6:18] = 1
    before = volumes.clone()
    disturbed = warping.disturbances(volumes, torch.Generator().manual_seed(0))
    assert torch.equal(volumes, before)
    assert disturbed.shape == volumes.shape
    assert not disturbed[:, :, :2].any()
    assert (disturbed - volumes).abs().mean() > 0.01
    again = warping.disturbances(volumes, torch.Generator().manual_seed(0))
    assert torch.equal(disturbed, again)
    other = warping.disturbances(volumes, torch.Generator().manual_seed(1))
    assert not torch.equal(disturbed, other)


def test_each_disturbance(monkeypatch):
    """Alone, each does what it says; without all of them, nothing happens."""
    volumes = torch.ones(50, 1, *SHAPE)

    def disturb(**only):
        for name in ("NOISE", "BRIGHTNESS", "CUBES", "MOTION_VOXELS"):
            monkeypatch.setattr(hardening, name, only.get(name, 0))
        return warping.disturbances(volumes, torch.Generator().manual_seed(0))

    torch.testing.assert_close(disturb(), volumes)
    spread = disturb(NOISE=0.5).std((1, 2, 3, 4))  # uniform from 0 to 0.5, one a subject
    assert 0.18 < float(spread.mean()) < 0.32
    assert float(spread.max()) < 0.51
    brightness = disturb(BRIGHTNESS=0.1).mean((1, 2, 3, 4))
    assert 0.07 < float(brightness.std()) < 0.13
    cut = (disturb(CUBES=1) == 0).sum((1, 2, 3, 4))
    assert cut.tolist() == [hardening.CUBE_VOXELS**3] * 50
    ramp = torch.arange(24.0).expand(50, 1, *SHAPE)
    monkeypatch.setattr(hardening, "CUBES", 0)
    monkeypatch.setattr(hardening, "MOTION_VOXELS", 0.3)
    moved = warping.disturbances(ramp + 1, torch.Generator().manual_seed(0)) - ramp - 1
    assert 0.25 < float(moved[..., 4:-4].std()) < 0.35
