"""Feature pictures of networks of which it is known what they respond to."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch
from monai.networks.nets import DenseNet121
from PIL import Image
from small_study import contents
from torch import nn

from helpers import anatomy, grids, models
from helpers.activation_maximization import recipes
from helpers.study import Study, features, maximizing, reporting

GRID = grids.mni(8.0)
BRAIN = anatomy.template(GRID)
PLACE_MM = (0.0, 0.0, 16.0)  # the ventricles and what is around them
CARD = {"classes": ["dark", "bright"], "shape": list(GRID.shape), "spacing_mm": 8.0}
BASE = "group/space-MNI152NLin2009aSym_res-8_desc-"
STEPS = 20


def within(radius_mm):
    distance = (GRID.centers_mm() - torch.tensor(PLACE_MM).view(3, 1, 1, 1)).square().sum(0)
    return distance.sqrt() < radius_mm


class Bright(nn.Module):
    """Has learned to look at the brightness of one place, and at nothing else."""

    def __init__(self, scale=60.0, finish=lambda logits: logits):
        super().__init__()
        self.linear = nn.Linear(within(1).numel(), 2)
        place = within(20).float().flatten()
        self.linear.weight.data = scale * torch.stack([-place, place]) / place.sum()
        self.linear.bias.data[:] = 0
        self.linear.bias.data -= self.linear(BRAIN.t1.flatten(1))[0].detach()
        self.finish, self.card = finish, CARD

    def forward(self, volumes):
        return self.finish(self.linear(volumes.flatten(1)))


class Spots(nn.Module):
    """Has learned that there is a bright spot somewhere."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv3d(1, 2, 3, padding=1, bias=False)
        self.linear = nn.Linear(2, 1)
        self.convolution.weight.data[:] = 1 / 27
        self.linear.weight.data[:] = 10.0
        self.linear.bias.data[:] = -29.0  # the template's brightest place has 1.2
        self.card = {**CARD, "classes": ["none", "a spot"]}

    def forward(self, volumes):
        return self.linear(self.convolution(volumes).amax((2, 3, 4)))


@pytest.fixture
def scans(tmp_path):
    """A folder with a scan that nobody reads."""
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans/s.nii.gz").write_bytes(b"")
    return tmp_path / "scans"


def maximize(scans, output, network, **options):
    options = {"steps": STEPS, "progress": False, **options}
    return maximizing.maximize(Study(scans, output), network, **options)


def volume(output, name):
    values, grid = grids.read(output / f"{BASE}{name}.nii.gz")
    assert grid == GRID
    return torch.from_numpy(values.copy())[None]


# What is found


def test_ventricles_grow_for_the_class_that_is_dark_there(scans, tmp_path):
    table = maximize(scans, tmp_path / "out", Bright().eval(), spaces=["warped"])
    assert table["picture"].tolist() == ["bright", "bright", "dark", "dark"]
    assert table["network"].tolist() == 2 * ["trained", "untrained"]
    rows = table.set_index(["picture", "network"])
    ventricles = (BRAIN.tissues[2] * within(20))[None]

    def grown(name):
        expansion = volume(tmp_path / "out", f"{name}_expansion")
        return float((expansion * ventricles).sum() / ventricles.sum())

    assert grown("darkWarped") > 0.15
    assert grown("brightWarped") < -0.15
    for name in CARD["classes"]:
        trained, control = (rows.loc[(name, network)] for network in ("trained", "untrained"))
        assert trained["probability_template"] == pytest.approx(0.5, abs=1e-3)
        assert trained["probability"] == trained["probability_of_trained"] > 0.9
        assert np.linalg.norm(trained[["x_mm", "y_mm", "z_mm"]].to_numpy(float) - PLACE_MM) < 20
        # The control has done what it could, and does not convince the trained network.
        assert abs(control["strongest"]) > 0.1
        assert control["objective"] > control["objective_template"]
        assert control["probability_of_trained"] < 0.5


def test_a_bright_spot_is_painted(scans, tmp_path):
    table = maximize(
        scans, tmp_path / "out", Spots().eval(), target="a spot", spaces=["painted"], steps=30
    )
    rows = table.set_index("network")
    assert rows.loc["trained", "probability_template"] < 0.1
    assert rows.loc["trained", "probability"] > 0.9
    assert rows.loc["trained", "objective_moved"] > rows.loc["trained", "objective_template"] + 3
    assert rows.loc["trained", "strongest"] > 0.2
    assert rows.loc["untrained", "probability_of_trained"] < 0.5
    picture = volume(tmp_path / "out", "aspotPainted_feature")
    deviation = volume(tmp_path / "out", "aspotPainted_deviation")
    assert torch.allclose(picture, BRAIN.t1 + deviation, atol=1e-6)
    assert picture.min() >= 0
    assert picture.max() <= recipes.BRIGHTEST
    assert not deviation[~BRAIN.mask].any()
    with torch.no_grad():
        logit = Spots()(picture[None])
    assert rows.loc["trained", "objective"] == pytest.approx(float(logit), abs=1e-3)


@pytest.mark.parametrize("space", features.SPACES)
def test_the_scale_of_the_logits_makes_no_difference(scans, tmp_path, space):
    """Penalties are in logits; the logits of an untrained network hardly differ."""
    options = {"target": "bright", "spaces": [space], "steps": 4}
    found = []
    for scale in (0.01, 60.0):
        output = tmp_path / f"{scale}"
        maximize(scans, output, Bright(scale).eval(), **options)
        found.append(volume(output, f"bright{space.capitalize()}_feature"))
    assert (found[0] - found[1]).abs().max() < 0.02
    assert (found[0] - BRAIN.t1).abs().max() > 0.05


def test_the_network_reads_what_its_card_says(scans, tmp_path):
    model = Bright().eval()
    model.card = {**CARD, "intensity": "zscore"}
    seen = models.as_the_network_reads(BRAIN.t1[None], model.card)
    model.linear.bias.data -= model(seen)[0].detach()
    table = maximize(scans, tmp_path / "out", model, target="bright", spaces=["warped"])
    picture = volume(tmp_path / "out", "brightWarped_feature")
    read = models.as_the_network_reads(picture[None], model.card)
    expected = float(models.predict(model, read).diff())
    assert table.loc[0, "objective"] == pytest.approx(expected, abs=1e-3)
    assert table.loc[0, "objective_template"] == pytest.approx(0, abs=1e-3)
    assert table.loc[0, "objective"] > 1


def test_channels_of_a_layer(scans, tmp_path):
    options = {"layer": "convolution", "channels": [0, 1], "spaces": ["warped"], "steps": 2}
    table = maximize(scans, tmp_path / "out", Spots().eval(), **options)
    assert table["picture"].unique().tolist() == ["convolution channel 0", "convolution channel 1"]
    assert table["probability"].isna().all()
    expected = Spots().convolution(BRAIN.t1[None])[0, 0].mean().detach()
    assert table.loc[0, "objective_template"] == pytest.approx(float(expected), abs=1e-5)
    assert (tmp_path / f"out/{BASE}convolutionchannel1Warped_feature.nii.gz").exists()


def test_a_densenet_on_a_crop(scans, tmp_path):
    network = DenseNet121(spatial_dims=3, in_channels=1, out_channels=2).train()
    rule = {"shape": [40, 48, 40], "spacing_mm": 4, "intensity": "zscore_brain"}
    network.card = {"classes": ["a", "b"], **rule}
    before = {name: value.clone() for name, value in network.state_dict().items()}
    options = {"target": "b", "spaces": ["warped"], "steps": 1}
    table = maximize(scans, tmp_path / "out", network, **options)
    file = "space-MNI152NLin2009aSym_res-4x40x48x40_desc-bWarped_feature.nii.gz"
    assert table.loc[0, "file"] == file
    values, grid = grids.read(tmp_path / "out/group" / file)
    assert grid == grids.mni(4.0, (40, 48, 40))
    assert np.isfinite(values).all()
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


# The control


def test_the_untrained_copy_has_forgotten_everything():
    model = models.build("course", 2, GRID.shape, seed=3)
    forgetful = features.untrained(model, seed=0)
    again = features.untrained(model, seed=0)
    other = features.untrained(model, seed=1)
    for name, weights in model.named_parameters():
        if "weight" in name and weights.ndim > 1:
            assert not torch.equal(weights, forgetful.get_parameter(name))
            assert not torch.equal(other.get_parameter(name), forgetful.get_parameter(name))
        assert torch.equal(again.get_parameter(name), forgetful.get_parameter(name))


def test_a_layer_that_cannot_draw_weights_has_its_own_in_another_order():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = nn.Parameter(torch.arange(1000.0).view(10, 100))

    model = Own()
    forgetful = features.untrained(model, seed=0).weights
    assert torch.equal(forgetful.flatten().sort().values, model.weights.flatten())
    correlation = torch.corrcoef(torch.stack([forgetful.flatten(), model.weights.flatten()]))[0, 1]
    assert abs(float(correlation.detach())) < 0.2


# What is written


def test_everything_that_is_written_and_a_second_run(scans, tmp_path, monkeypatch):
    options = {"target": "bright", "spaces": ["warped"], "steps": 2}
    maximize(scans, tmp_path / "out", Bright().eval(), **options)
    whole = contents(tmp_path / "out")
    files = ("Warped_feature.nii.gz", "Warped_expansion.nii.gz", "WarpedUntrained_feature.nii.gz")
    files += ("WarpedUntrained_expansion.nii.gz", "Warped_feature.png", "Warped_feature.json")
    expected = {f"{BASE}bright{file}" for file in files}
    expected |= {f"group/desc-feature_pictures.{ending}" for ending in ("tsv", "json")}
    assert set(whole) == expected | {".bidsignore"}
    record = json.loads((tmp_path / f"out/{BASE}brightWarped_feature.json").read_text())
    assert "not how people differ" in record["what"]
    with Image.open(tmp_path / f"out/{BASE}brightWarped_feature.png") as picture:
        assert picture.size[1] / picture.size[0] == pytest.approx(2 * 3 / 4)  # both networks

    calls, warped = [], recipes.warped

    def counted(*arguments, **more):
        calls.append(arguments)
        return warped(*arguments, **more)

    monkeypatch.setattr(recipes, "warped", counted)
    maximize(scans, tmp_path / "out", Bright().eval(), **options)
    assert not calls
    assert contents(tmp_path / "out") == whole
    (tmp_path / f"out/{BASE}brightWarpedUntrained_feature.nii.gz").write_bytes(b"damaged")
    maximize(scans, tmp_path / "out", Bright().eval(), **options)
    assert len(calls) == 2
    assert contents(tmp_path / "out") == whole
    table = maximize(scans, tmp_path / "out", Bright().eval(), **{**options, "target": "dark"})
    assert len(calls) == 4
    assert table["picture"].tolist() == ["bright", "bright", "dark", "dark"]
    written = pd.read_csv(tmp_path / "out/group/desc-feature_pictures.tsv", sep="\t")
    assert written["file"].tolist() == table["file"].tolist()
    with pytest.raises(ValueError, match="feature pictures of another network .*name another outp"):
        maximize(scans, tmp_path / "out", Bright(61.0).eval(), **options)
    page = reporting.report(Study(scans, tmp_path / "out")).read_text()
    assert page.count('<img decoding="async" src="data:image/webp') == len(
        list((tmp_path / "out/group").glob("*_feature.png"))
    )
    assert "a copy that has learned nothing" in page


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["AD", "healthy control"], ["AD", "healthycontrol"]),
        (["ill", "Ill"], ["class0", "class1"]),  # one file on a disk that knows no capitals
        (["+", "-"], ["class0", "class1"]),
    ],
)
def test_names_of_classes_become_names_of_files(names, labels):
    model = Bright()
    model.card = {**CARD, "classes": names}
    assert [wish.label for wish in features.wishes_of(model, None, None, ())] == labels


# Networks and options that do not fit


@pytest.mark.parametrize(
    ("finish", "message"),
    [
        (
            lambda logits: logits.detach(),
            "no voxel of the template changes margin 0 .* must be dif",
        ),
        (
            lambda logits: logits.round(),
            "no voxel of the template changes margin 0 .* must be diff",
        ),
        (lambda logits: logits * torch.nan, r"expected a finite logit for each of \['dark', 'brig"),
        (lambda logits: (logits, logits), "fails on the template's brain.* puts out a tuple"),
        (lambda logits: logits[:, :1].sigmoid(), "fails on the template's brain.* in a sigmoid"),
        (lambda logits: logits.repeat(1, 2), r"a finite logit for each of \['dark', 'bright'\]"),
    ],
)
def test_networks_that_are_refused(scans, tmp_path, finish, message):
    with pytest.raises(ValueError, match=message):
        maximize(scans, tmp_path / "out", Bright(finish=finish).eval())
    assert not list((tmp_path / "out").glob("group/*feature.*"))


def test_a_network_without_weights_has_no_control(scans, tmp_path):
    class Mean(nn.Module):
        card = CARD

        def forward(self, volumes):
            return volumes.mean((2, 3, 4)).repeat(1, 2)

    with pytest.raises(ValueError, match="no weights, so there is no untrained one to compare wi"):
        maximize(scans, tmp_path / "out", Mean().eval())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "light"}, r"there is no class 'light'; the model knows \['dark', 'bright'\]"),
        ({"steps": 0}, r"expected spaces of \['painted', 'warped'\] and steps of 1 or more, got"),
        ({"spaces": ["drawn"]}, r"expected spaces of .*got \['drawn'\]"),
        ({"layer": "convolution"}, "expected a layer with its channels, or classes"),
        ({"channels": [3]}, "expected a layer with its channels, or classes"),
        ({"layer": "linear", "channels": [3]}, "linear has 2 channels, 0 to 1; there is no 3"),
        ({"layer": "block7", "channels": [3]}, "no layer 'block7'; there are "),
    ],
)
def test_options_that_do_not_fit(scans, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        maximize(scans, tmp_path / "out", Bright().eval(), **options)
    assert not (tmp_path / "out").exists()


def test_a_grid_without_a_place_to_paint():
    shallow = dataclasses.replace(BRAIN, tissues=torch.zeros_like(BRAIN.tissues))
    with pytest.raises(ValueError, match="no white matter deep enough .* space 'warped' alone"):
        features.check_place(shallow)
