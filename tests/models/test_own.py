"""Networks from elsewhere: MONAI's own, saved as people save them."""

import json

import pytest
import safetensors.torch
import torch
from monai.networks import nets

from helpers import models

SHAPE = (24, 28, 24)
CARD = {"classes": ["control", "patient"], "shape": list(SHAPE), "spacing_mm": 8.0}
SOURCE = """
from dataclasses import dataclass
from beside import CHANNELS
from monai.networks.nets import Regressor

@dataclass
class Settings:
    channels: tuple = CHANNELS

def network():
    return Regressor((1, 24, 28, 24), (2,), Settings().channels, (2, 2))

def sized(shape, *, classes):
    return Regressor(shape, (classes,), (2, 4), (2, 2))

def words():
    return "a network"

def _hidden():
    pass
"""


def regressor(**options):
    torch.manual_seed(5)
    return nets.Regressor((1, *SHAPE), (2,), options.get("channels", (2, 4)), (2, 2))


@pytest.fixture
def folder(tmp_path):
    """A file with functions, what lies beside it, and a card."""
    (tmp_path / "net.py").write_text(SOURCE)
    (tmp_path / "beside.py").write_text("CHANNELS = (2, 4)\n")
    (tmp_path / "net.json").write_text(json.dumps(CARD))
    torch.save(regressor().state_dict(), tmp_path / "net.pt")
    return tmp_path


@pytest.fixture(scope="module")
def volumes():
    return torch.rand(3, 1, *SHAPE, generator=torch.Generator().manual_seed(1))


def saved(folder, what):
    """Save weights in one of the ways in which people do."""
    weights = regressor().state_dict()
    path = folder / ("net.safetensors" if what == "safetensors" else "net.pt")
    if what == "safetensors":
        safetensors.torch.save_file(weights, path)
        return path
    wrapped = {
        "alone": weights,
        "checkpoint": {"epoch": 3, "model_state_dict": weights, "loss": [0.1]},
        "lightning": {"state_dict": {f"model.{k}": v for k, v in weights.items()}},
        "several GPUs": {f"module.{k}": v for k, v in weights.items()},
    }[what]
    torch.save(wrapped, path)
    return path


@pytest.mark.parametrize(
    "what", ["alone", "checkpoint", "lightning", "several GPUs", "safetensors"]
)
def test_a_function_and_its_weights(folder, volumes, what):
    model = models.load(f"{folder}/net.py:network", weights=saved(folder, what))
    expected = regressor().eval()
    with torch.no_grad():
        assert torch.equal(model(volumes), expected(volumes))
    assert model.card == CARD
    assert not model.training


def test_a_word_that_the_network_says_itself_is_left_in(tmp_path):
    wrapped = torch.nn.Sequential()
    wrapped.add_module("model", torch.nn.Linear(2, 2))
    torch.save(wrapped.state_dict(), tmp_path / "net.pt")
    filled = torch.nn.Sequential()
    filled.add_module("model", torch.nn.Linear(2, 2))
    models.own.fill(filled, tmp_path / "net.pt")
    assert torch.equal(filled.model.weight, wrapped.model.weight)


def test_a_monai_bundle(tmp_path, volumes):
    (tmp_path / "configs").mkdir()
    (tmp_path / "models").mkdir()
    config = {
        "device": "$torch.device('cuda')",  # of a bundle made for a GPU: never asked for here
        "network_def": {
            "_target_": "DenseNet",
            "spatial_dims": 3,
            "in_channels": 1,
            "out_channels": 2,
            "init_features": 4,
            "growth_rate": 2,
            "block_config": [2, 2],
        },
        "network": "$@network_def.to(@device)",
    }
    (tmp_path / "configs" / "inference.json").write_text(json.dumps(config))
    (tmp_path / "card.toml").write_text(
        f'classes = ["F", "M"]\nshape = {list(SHAPE)}\nspacing_mm = 8.0\n'
    )
    torch.manual_seed(2)
    original = nets.DenseNet(3, 1, 2, init_features=4, growth_rate=2, block_config=(2, 2))
    torch.save(original.state_dict(), tmp_path / "models" / "model.pt")
    model = models.load(tmp_path)
    with torch.no_grad():
        assert torch.equal(model(volumes), original.eval()(volumes))
    assert model.card["classes"] == ["F", "M"]


def test_what_ships_comes_by_its_name(tmp_path):
    assert models.load("atrophy").card == models.pretrained("atrophy").card
    model = models.build("course", 2, SHAPE)
    models.save_pretrained(model, "mine", {**CARD, "network": "course"}, folder=tmp_path)
    assert models.load(tmp_path / "mine.safetensors").card["network"] == "course"


def test_a_folder_that_is_called_like_a_task_is_in_nobodys_way(tmp_path, monkeypatch):
    (tmp_path / "lesion").mkdir()
    monkeypatch.chdir(tmp_path)
    assert models.load("lesion").card["classes"][0] == "healthy"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("net.py:sized", r"sized in .*net.py needs \['shape', 'classes'\]; write a function that"),
        ("net.py:words", "words in .*net.py gives a str; expected a torch Module"),
        ("net.py:forest", r"has no function 'forest'; there are \['dataclass', 'network', "),
        ("broken.py:network", "broken.py does not run: ModuleNotFoundError: No module named 'nix'"),
    ],
)
def test_functions_that_build_no_network(folder, source, message):
    (folder / "broken.py").write_text("import nix")
    with pytest.raises(ValueError, match=message):
        models.load(f"{folder}/{source}", weights=folder / "net.pt")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (
            lambda: regressor(channels=(2, 4, 8)).state_dict(),
            "has too many 1 of 17 weights: net.layer_1",
        ),
        (lambda: regressor(channels=(3, 4)).state_dict(), r"differs in .* where the network has"),
        (lambda: {}, "holds a dict; expected a state dict"),
        (lambda: {"epoch": 3}, r"holds no weights, but \['epoch'\]"),
        (lambda: torch.ones(3), "holds a Tensor; expected a state dict"),
        (regressor, "holds more than weights, or none .*could run code: write torch.save"),
    ],
)
def test_weights_that_are_refused(folder, weights, message):
    torch.save(weights(), folder / "net.pt")
    with pytest.raises(ValueError, match=message):
        models.load(f"{folder}/net.py:network", weights=folder / "net.pt")


@pytest.mark.parametrize(
    ("file", "save"), [("net.pt", torch.save), ("net.safetensors", safetensors.torch.save_file)]
)
def test_weights_that_miss_something_say_what(folder, file, save):
    weights = regressor().state_dict()
    name = list(weights)[2]
    del weights[name]
    save(weights, folder / file)
    with pytest.raises(ValueError, match=f"it misses 1 of {len(weights) + 1} weights: {name}"):
        models.load(f"{folder}/net.py:network", weights=folder / file)


def test_no_file_of_weights_runs_code(folder, monkeypatch):
    class Trap:
        def __reduce__(self):
            return (print, ("gotcha",))

    torch.save({"state_dict": regressor().state_dict(), "trap": Trap()}, folder / "net.pt")
    monkeypatch.setattr("builtins.print", lambda *words: pytest.fail("code ran"))
    with pytest.raises(ValueError, match="because it could run code"):
        models.load(f"{folder}/net.py:network", weights=folder / "net.pt")


def test_damaged_and_missing_files(folder):
    source = f"{folder}/net.py:network"
    (folder / "net.pt").write_bytes((folder / "net.pt").read_bytes()[:200])
    with pytest.raises(ValueError, match="holds more than weights, or none"):
        models.load(source, weights=folder / "net.pt")
    with pytest.raises(FileNotFoundError, match="no weights at"):
        models.load(source, weights=folder / "other.pt")
    with pytest.raises(FileNotFoundError, match="no file .*other.py"):
        models.load(f"{folder}/other.py:network", weights=folder / "net.pt")
    with pytest.raises(ValueError, match="say where its trained weights are"):
        models.load(source)
    with pytest.raises(FileNotFoundError, match="is no bundle of MONAI's"):
        models.load(folder)
    with pytest.raises(FileNotFoundError, match="no .*mine.safetensors; weights lie beside a card"):
        models.load(folder / "mine.safetensors")
    with pytest.raises(ValueError, match="no pretrained weights for 'lesoin'; there are"):
        models.load("lesoin")
    with pytest.raises(ValueError, match="lesion brings its own weights"):
        models.load("lesion", weights=folder / "net.pt")


def test_a_card_that_does_not_fit_the_network(folder):
    source = f"{folder}/net.py:network"
    (folder / "other.json").write_text(json.dumps({**CARD, "classes": ["a", "b", "c"]}))
    with pytest.raises(ValueError, match="tells 2 classes apart, its card names 3"):
        models.load(source, weights=folder / "net.pt", card=folder / "other.json")
    (folder / "other.json").write_text(json.dumps({**CARD, "shape": [24, 28, 32]}))
    with pytest.raises(ValueError, match="does not take a volume of 24x28x32 voxels"):
        models.load(source, weights=folder / "net.pt", card=folder / "other.json")
    (folder / "net.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no card at .*net\.toml"):
        models.load(source, weights=folder / "net.pt")
