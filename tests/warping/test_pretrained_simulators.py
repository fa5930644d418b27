import json

import pytest
import torch

from helpers import models, warping

SHAPE = (16, 20, 24)


@pytest.fixture
def stored(tmp_path):
    simulator = warping.Simulator(SHAPE, field="displacement", blur_voxels=1.5, seed=3)
    torch.nn.init.normal_(simulator.network.common)
    card = {"simulator": {"shape": SHAPE, "field": "displacement", "blur_voxels": 1.5}}
    warping.save_pretrained(simulator, "atrophy", card, seed=2, folder=tmp_path)
    return simulator, tmp_path


def test_what_was_stored_comes_back(stored):
    simulator, folder = stored
    loaded = warping.pretrained("atrophy", seed=2, folder=folder)
    assert not loaded.training
    assert loaded.card["simulator"]["field"] == "displacement"
    volumes = torch.rand(2, 1, *SHAPE)
    ours, theirs = loaded(volumes, "remove"), simulator(volumes, "remove")
    assert torch.equal(ours.displacement, theirs.displacement)
    assert ours.displacement.any()
    assert not list(folder.glob(".unfinished*"))


def test_missing_and_damaged_weights(stored):
    _, folder = stored
    with pytest.raises(ValueError, match=r"no pretrained simulator 'alcohol'; there are \['atr"):
        warping.pretrained("alcohol", folder=folder)
    path = folder / "atrophy-2.json"
    card = json.loads(path.read_text())
    path.write_text(json.dumps({**card, "simulator": {"shape": [24, 20, 24]}}))
    with pytest.raises(ValueError, match="was made for another network"):
        warping.pretrained("atrophy", seed=2, folder=folder)
    path.write_text(json.dumps(card))
    (folder / "atrophy-2.safetensors").write_bytes(b"not weights")
    with pytest.raises(ValueError, match="is not a readable safetensors file"):
        warping.pretrained("atrophy", seed=2, folder=folder)


def test_shipped_simulator():
    simulator = warping.pretrained("atrophy")
    assert "nothing about any patient" in simulator.card["what"]
    assert simulator.shape == (48, 56, 48)
    for seed in (0, 1, 2):
        teacher = models.pretrained("atrophy-hardened", seed=seed, folder=warping.WEIGHTS)
        assert teacher.card["hardening"]["epochs"] == 4
