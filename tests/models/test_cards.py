import json

import numpy as np
import pytest
import torch
from monai.transforms import NormalizeIntensity, ScaleIntensity

from helpers import anatomy, cohorts, grids, models
from helpers.models import cards

CARD = {"classes": ["control", "patient"], "shape": [80, 96, 80], "spacing_mm": 2.0}


@pytest.fixture(scope="module")
def brains():
    return cohorts.real()[:3].volumes


@pytest.mark.parametrize(
    ("rule", "oracle"),
    [
        ("zscore", NormalizeIntensity()),
        ("zscore_brain", NormalizeIntensity(nonzero=True)),
        ("unit", ScaleIntensity()),
        ("median", lambda volume: volume),
    ],
)
def test_intensities_are_those_of_monai(brains, rule, oracle):
    found = models.as_the_network_reads(brains, {**CARD, "intensity": rule})
    for volume, brain in zip(found, brains, strict=True):
        torch.testing.assert_close(
            volume, torch.as_tensor(oracle(brain.clone())), atol=1e-5, rtol=1e-5
        )


def test_without_a_rule_brains_stay_as_they_are(brains):
    assert torch.equal(models.as_the_network_reads(brains, CARD), brains)


def test_a_card_in_toml_and_in_json_say_the_same(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({**CARD, "intensity": "unit"}))
    (tmp_path / "a.toml").write_text(
        'classes = ["control", "patient"]\nshape = [80, 96, 80]\nspacing_mm = 2.0\n'
        'intensity = "unit"\n'
    )
    one, other = (models.read_card(tmp_path / name) for name in ("a.json", "a.toml"))
    assert one == other
    grid = models.card_grid(one)
    # The crop lies about the middle of the field of view: it holds all of the brain but the tip of
    # the stem.
    inside, whole = (anatomy.template(g).mask.sum() for g in (grid, grids.mni(2.0)))
    assert 0.999 < inside / whole <= 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"classes": "control, patient"}, "expected two names or more"),
        ({"classes": ["patient"]}, "with one logit has two"),
        ({"classes": ["a", "a"]}, "each once"),
        ({"classes": [0, 1]}, "expected two names"),
        ({"shape": [80, 96]}, r"\[80, 96\]; expected three numbers of voxels"),
        ({"shape": [80, 96, 80.5]}, "expected three numbers of voxels"),
        ({"shape": [80, 96, 0]}, "expected three numbers of voxels"),
        ({"spacing_mm": "2"}, "a spacing_mm of '2'"),
        ({"spacing_mm": 0}, "must be a positive number"),
        ({"spacing_mm": float("inf")}, "must be a positive number"),
        ({"space": "scanner"}, r"the space 'scanner'; expected one of \['mni', 'native', 'r"),
        ({"space": ["native"]}, r"the space \['native'\]; expected one of"),
        ({"intensity": "z-score"}, r"'z-score'; expected one of \['median', 'unit', 'zscore'"),
        ({"intensity": ["zscore"]}, r"\['zscore'\]; expected one of"),
    ],
)
def test_cards_that_are_refused(tmp_path, changed, message):
    path = tmp_path / "card.json"
    path.write_text(json.dumps({**CARD, **changed}))
    with pytest.raises(ValueError, match=message):
        models.read_card(path)


def test_the_space_of_a_card():
    shape = tuple(CARD["shape"])
    for card in (CARD, {**CARD, "space": "mni"}):
        assert models.card_grid(card) == grids.mni(2.0, shape)
        assert not models.card_grid(card).is_native
    own = models.card_grid({**CARD, "space": "native"})
    assert own == grids.native(2.0, shape)
    assert own.is_native
    network = models.build("course", 2, (24, 28, 24))
    drafts = [
        models.draft_card(network, (24, 28, 24), spacing_mm=8.0, space=space)
        for space in ("mni", "native")
    ]
    assert "space" not in drafts[0]
    assert drafts[1] == {**drafts[0], "space": "native"}


@pytest.mark.parametrize("missing", CARD)
def test_a_card_that_leaves_something_out(missing):
    with pytest.raises(ValueError, match=f"the card does not say \\['{missing}'\\]"):
        cards.check_card({name: value for name, value in CARD.items() if name != missing})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("card.toml", "classes = [", "is no card"),
        ("card.json", "{", "is no card"),
        ("card.json", "[1, 2]", "expected names with values"),
        ("card.json", "\x00\xff", "is no card"),
    ],
)
def test_files_that_are_no_cards(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        models.read_card(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no card at"):
        models.read_card(tmp_path / "other.toml")


def test_a_draft_says_what_the_network_says():
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(5 * 6 * 7, 1))
    draft = models.draft_card(flat, (5, 6, 7), spacing_mm=30.0)
    assert draft["classes"] == ["class 0", "class 1"]  # no and yes
    assert draft["shape"] == [5, 6, 7]
    cards.check_card(json.loads(json.dumps(draft)))
    with pytest.raises(ValueError, match="does not take a volume of 5x6x8 voxels: mat1 and mat2"):
        models.draft_card(flat, (5, 6, 8), spacing_mm=30.0)


def test_every_shipped_card_is_one():
    for path in models.WEIGHTS.glob("*.json"):
        card = models.read_card(path)
        assert models.card_grid(card) == grids.mni(card["spacing_mm"])
        np.testing.assert_array_equal(card["shape"], grids.mni(card["spacing_mm"]).shape)
