"""Brains that are deformed until a network changes its mind, where it is known what it reads."""

import json
import shutil

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from monai.networks.nets import DenseNet121
from PIL import Image
from small_study import contents, main
from torch import nn

from helpers import cohorts, grids, models, warping
from helpers.cohorts import registration
from helpers.grids import Grid
from helpers.study import Study, simulating
from helpers.study.grouping import maps_of_people

GRID = grids.mni(8.0)
PLACE_MM, RADIUS_MM = (-40.0, -24.0, 4.0), 20.0
CARD = {"classes": ["dark", "bright"], "shape": list(GRID.shape), "spacing_mm": 8.0}
IN_MNI = "_space-MNI152NLin2009aSym_res-8"
SIMULATED = f"{IN_MNI}_desc-simulated_T1w.nii.gz"
STEPS = 25


def within(place_mm, radius_mm, grid=GRID):
    distance = (grid.centers_mm() - torch.tensor(place_mm).view(3, 1, 1, 1)).square().sum(0)
    return distance.sqrt() < radius_mm


class Bright(nn.Module):
    """Looks at the mean brightness of one place in the left half, and at nothing else."""

    def __init__(self, threshold, finish=lambda logits: logits):
        super().__init__()
        self.register_buffer("place", within(PLACE_MM, RADIUS_MM).float())
        self.threshold = nn.Parameter(torch.as_tensor(threshold))
        self.finish, self.card = finish, CARD

    def brightness(self, volumes):
        return (volumes[:, 0] * self.place).sum((1, 2, 3)) / self.place.sum()

    def forward(self, volumes):
        logit = 30 * (self.brightness(volumes) - self.threshold)
        return self.finish(torch.stack([-logit, logit], 1))


@pytest.fixture(scope="module")
def brains():
    return cohorts.simulate("atrophy", 5, seed=3, grid=GRID).volumes


@pytest.fixture(scope="module")
def threshold(brains):
    """Two brains are dark, three are bright."""
    return float(Bright(0.0).brightness(brains).sort().values[1:3].mean())


@pytest.fixture
def network(threshold):
    return Bright(threshold).eval()


@pytest.fixture(scope="module")
def scans(tmp_path_factory, brains):
    """Five people; the axes of the first file run otherwise, to the left and down."""
    folder = tmp_path_factory.mktemp("people")
    for i, volume in enumerate(brains):
        grids.save(volume, GRID, folder / f"s{i}.nii.gz")
    image = nib.load(folder / "s0.nii.gz")
    codes = (nib.orientations.axcodes2ornt(axes) for axes in ("RAS", "ILP"))
    turned = image.as_reoriented(nib.orientations.ornt_transform(*codes))
    nib.save(nib.Nifti1Image(np.asarray(turned.dataobj), turned.affine), folder / "s0.nii.gz")
    return folder


def simulate(folder, output, network, **options):
    options = {"steps": STEPS, "progress": False, **options}
    return simulating.simulate(Study(folder, output), network, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, scans, threshold):
    output = tmp_path_factory.mktemp("simulated") / "out"
    simulate(scans, output, Bright(threshold).eval())
    return output


@pytest.fixture
def done(tmp_path, scans, finished):
    """A folder and an output of one's own, which is finished."""
    shutil.copytree(scans, tmp_path / "scans")
    shutil.copytree(finished, tmp_path / "out")
    return tmp_path / "scans", tmp_path / "out"


@pytest.fixture
def deformed(monkeypatch):
    """How many brains were deformed, in more than the one step that tries a network."""
    calls, optimize = [], warping.optimize

    def counted(*arguments, steps, **options):
        calls.extend([steps] if steps > 1 else [])
        return optimize(*arguments, steps=steps, **options)

    monkeypatch.setattr(warping, "optimize", counted)
    return calls


def log_expansion(output, name, grid_name=IN_MNI):
    values, _ = grids.read(output / f"{name}{grid_name}_desc-simulated_map.nii.gz")
    return torch.from_numpy(values.copy())


def record(output, name):
    return json.loads((output / f"{name}_desc-simulated_map.json").read_text())


# What is found


def test_tissue_moves_where_the_network_looks(finished):
    left = within(PLACE_MM, RADIUS_MM + 16)
    right = left.flip(0)  # the grid is as far to the left as to the right
    table = pd.read_csv(finished / "group/desc-simulated_scans.tsv", sep="\t").set_index("name")
    for name in ("s0", "s1", "s2", "s3", "s4"):
        sizes = log_expansion(finished, name).abs()
        share = sizes[left].sum() / sizes.sum()
        assert share > 5 * left.float().mean()
        assert share > 4 * sizes[right].sum() / sizes.sum()
        assert table.loc[name, "x_mm"] < 0
    assert (table["predicted"] != table["predicted_after"]).all()
    assert (table["target"] == table["predicted_after"]).all()
    assert (table["target_probability"] < 0.5).all()
    assert (table["target_probability_after"] > 0.5).all()
    assert (table["folded"] == 0).all()
    assert table["predicted"].value_counts().to_dict() == {"bright": 3, "dark": 2}


def test_of_folds_each_person_meets_the_network_that_has_not_seen_her(scans, tmp_path, threshold):
    networks = [Bright(threshold), Bright(threshold - 0.001)]
    fold_of = {"s0": 1, "s1": 0, "s2": 1, "s3": 0}  # s4 is in no fold: both have not seen her
    folds = models.FoldSet(networks, fold_of, CARD)
    output = tmp_path / "out"
    table = simulate(scans, output, folds, steps=1)
    for name, whose in {**{n: [networks[k]] for n, k in fold_of.items()}, "s4": networks}.items():
        record = json.loads((output / f"{name}_desc-simulated_map.json").read_text())
        brain = grids.read(output / f"{name}{SIMULATED}")[0]
        expected = [float(n(torch.tensor(brain)[None, None]).diff(dim=1).detach()) for n in whose]
        assert record["log_odds_of_file"] == pytest.approx(np.mean(expected), abs=1e-3)
    assert table.set_index("name")["fold"].fillna(-1).to_dict() == {**fold_of, "s4": -1}


def test_the_simulated_brain_convinces_the_network(finished, network, brains):
    for i in range(5):
        volume, grid = grids.read(finished / f"s{i}{SIMULATED}")
        assert grid == GRID
        logits = models.predict(network, torch.from_numpy(volume.copy())[None, None])[0]
        found = record(finished, f"s{i}")
        assert network.card["classes"][int(logits.argmax())] == found["predicted_after"]
        assert float(logits.diff()) == pytest.approx(found["log_odds_of_file"], abs=1e-3)
        assert found["log_odds_of_file"] == pytest.approx(found["log_odds_after"], abs=0.3)
        assert not np.allclose(volume, brains[i, 0])


def test_networks_that_took_no_part_are_asked(scans, tmp_path, network, threshold):
    """One looks at the same place and changes its mind; one looks elsewhere and does not."""
    alike, elsewhere = Bright(threshold + 0.001).eval(), Bright(threshold).eval()
    elsewhere.place = within((40.0, 30.0, 20.0), RADIUS_MM).float()
    elsewhere.threshold.data.fill_(-1.0)  # everything is bright to it
    found = simulate(scans, tmp_path / "a", network, judges=[alike], target="dark")
    bright = found["predicted"] == "bright"
    assert (found.loc[bright, "judges_for_target"] == 0).all()
    assert (found.loc[bright, "judges_for_target_after"] == 1).all()
    assert not found["warnings"].str.contains("took no part").any()
    found = simulate(scans, tmp_path / "b", network, judges=[alike, elsewhere], target="dark")
    assert (found.loc[bright, "judges_for_target_after"] == 0.5).all()
    assert found.loc[bright, "warnings"].str.contains("most networks that took no part").all()


def test_judges_that_cannot_judge(scans, tmp_path, network, threshold):
    stranger, finer = Bright(0.0).eval(), Bright(0.0).eval()
    stranger.card = {**CARD, "classes": ["bright", "dark"]}
    finer.card = {**CARD, "shape": [48, 56, 48], "spacing_mm": 4.0}
    for judges, message in (
        ([Bright(threshold).eval()], "takes no part"),
        ([stranger], r"a judge knows \['bright', 'dark'\], the model \['dark', 'bright'\]"),
        ([finer], "another grid than the model"),
    ):
        with pytest.raises(ValueError, match=message):
            simulate(scans, tmp_path / "out", network, judges=judges)


def test_groups_of_simulations_and_the_report(scans, finished, tmp_path):
    """What all that are led to one class have in common, and both directions on one page."""
    mine = Study(scans, finished)
    rows = [record(finished, f"s{i}") for i in range(5)]
    means = {}
    for target in CARD["classes"]:
        chosen = [i for i, row in enumerate(rows) if row["target"] == target]
        _, maps, _ = maps_of_people(mine, "simulated", scans=[mine.scans[i] for i in chosen])
        means[target] = maps.mean(0)
        expected = torch.stack([log_expansion(finished, f"s{i}")[None] for i in chosen]).mean(0)
        assert torch.allclose(means[target], expected)
    assert not torch.allclose(means["dark"], means["bright"])
    shutil.copytree(finished, tmp_path / "out")
    assert main("report", scans, tmp_path / "out") == 0
    page = (tmp_path / "out/report.html").read_text()
    assert "5 brains were deformed" in page
    assert "from the scan to dark, mean of" in page
    assert "from the scan to bright, mean of" in page
    few = ["--permutations=50", "--level=0.1"]
    assert main("group", scans, tmp_path / "out", "--method=simulated", *few) == 0
    assert list((tmp_path / "out/group").glob("*_desc-simulated_t.nii.gz"))


def test_typical_is_who_stands_in_the_middle_of_a_class(finished, network, brains):
    odds = models.predict(network, brains).diff(dim=1)[:, 0]
    bright = [i for i in odds.argsort().tolist() if odds[i] > 0]
    dark = [i for i in odds.argsort(descending=True).tolist() if odds[i] <= 0]
    typical = record(finished, "s0")["typical"]
    # Of two in the middle, the one that is nearer to the border.
    assert typical["dark"]["scan"] == f"s{dark[0]}.nii.gz"
    assert typical["bright"]["scan"] == f"s{bright[1]}.nii.gz"
    assert [typical[name]["of"] for name in CARD["classes"]] == [2, 3]
    for name, goal in (("dark", odds[dark[0]]), ("bright", odds[bright[1]])):
        assert typical[name]["log_odds"] == pytest.approx(float(goal), abs=1e-4)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_atrophy_is_removed_where_it_was_planted(tmp_path):
    people = cohorts.simulate("atrophy", 2, seed=5)
    for i in range(2):
        grids.save(people.volumes[i], people.grid, tmp_path / f"scans/s{i}.nii.gz")
    table = simulate(tmp_path / "scans", tmp_path / "out", models.load("atrophy"), steps=10)
    named = [people.classes[label] for label in people.labels]
    assert table["predicted"].tolist() == named
    truth = people.truth.log_expansion[people.labels == 1][0, 0]
    for i, name in enumerate(named):
        found = log_expansion(tmp_path / "out", f"s{i}", "_space-MNI152NLin2009aSym_res-4")
        inside = people.volumes[i, 0] != 0
        cosine = torch.cosine_similarity(found[inside], truth[inside], dim=0)
        assert (cosine if name == "control" else -cosine) > 0.5


# Where it is written


def test_maps_lie_on_the_voxels_of_the_scans(scans, finished):
    for i in range(5):
        original = nib.load(scans / f"s{i}.nii.gz")
        written = nib.load(finished / f"s{i}_desc-simulated_map.nii.gz")
        assert written.shape == original.shape
        np.testing.assert_allclose(written.affine, original.affine, atol=1e-5)
        assert nib.aff2axcodes(written.affine) == tuple("ILP" if i == 0 else "RAS")
        upright, _ = grids.read(finished / f"s{i}_desc-simulated_map.nii.gz")
        np.testing.assert_array_equal(upright, log_expansion(finished, f"s{i}").numpy())


def test_a_map_goes_back_to_a_scan_that_was_moved(tmp_path, brains, network, monkeypatch):
    """The registration, which has its own tests, moves the head by 16 mm to the right."""
    shift = np.eye(4)
    shift[0, 3] = 16
    monkeypatch.setattr(registration, "register", lambda *_, **__: (shift, 0.5))
    native = Grid(GRID.shape, np.linalg.inv(shift) @ GRID.affine)
    for i in range(2):
        grids.save(300 * brains[i], native, tmp_path / f"scans/s{i}.nii.gz")
        grids.save((brains[i] != 0).float(), native, tmp_path / f"scans/masks/s{i}.nii.gz")
    masks = "masks/{participant_id}.nii.gz"
    study = Study(tmp_path / "scans", tmp_path / "out", masks=masks)
    simulating.simulate(study, network, steps=3, progress=False)
    own, grid = grids.read(tmp_path / "out/s1_desc-simulated_map.nii.gz")
    assert grid == native
    # Voxel by voxel the same numbers, 16 mm to the left.
    np.testing.assert_allclose(own, log_expansion(tmp_path / "out", "s1").numpy(), atol=1e-3)
    assert np.abs(own).max() > 0.01


def test_everything_that_is_written(finished):
    found = set(contents(finished))
    own = {"_desc-simulated_map.nii.gz", "_desc-simulated_map.png", "_desc-simulated_map.json"}
    own |= {f"{IN_MNI}_desc-simulated_{what}.nii.gz" for what in ("map", "T1w")}
    own.add(f"{IN_MNI}_desc-simulated_T1w.json")
    expected = {f"s{i}{ending}" for i in range(5) for ending in own}
    expected |= {f"group/desc-simulated_{what}" for what in ("scans.tsv", "regions.tsv")}
    expected |= {"group/desc-simulated_summary.json", "desc-simulated_map.json", ".bidsignore"}
    assert found == expected
    one = record(finished, "s0")
    assert one["Sources"] == ["bids:raw:s0.nii.gz"]
    summary = json.loads((finished / "group/desc-simulated_summary.json").read_text())
    assert summary["simulated"] == summary["changed_their_class"] == 5
    for said in (one["what"], summary["what"]):
        assert "A changed mind alone proves no anatomy" in said
    regions = pd.read_csv(finished / "group/desc-simulated_regions.tsv", sep="\t")
    assert len(regions) == 5 * 3 * 2
    with Image.open(finished / "s0_desc-simulated_map.png") as picture:
        assert picture.size[0] / picture.size[1] == pytest.approx(4 / 3)


# Going on


def test_a_second_run_does_nothing(done, network, deformed):
    folder, output = done
    before = {path: path.stat().st_mtime_ns for path in output.glob("s*")}
    whole = contents(output)
    table = simulate(folder, output, network)
    assert not deformed
    assert before == {path: path.stat().st_mtime_ns for path in output.glob("s*")}
    assert contents(output) == whole
    assert table["problem"].isna().all()


def test_a_changed_scan_is_done_again_and_a_lost_file(done, network, deformed, brains):
    folder, output = done
    typical = {one["scan"] for one in record(output, "s0")["typical"].values()}
    changed, lost = sorted({f"s{i}.nii.gz" for i in range(1, 5)} - typical)[:2]
    volume = brains[int(changed[1])].clone()
    volume[0, 16, 14, 12] *= 1.01  # in the right half, where the network does not look
    grids.save(volume, GRID, folder / changed)
    (output / f"s{lost[1]}{SIMULATED}").unlink()
    simulate(folder, output, network)
    assert len(deformed) == 2


def test_for_another_typical_person_all_are_done_again(done, network, deformed):
    folder, output = done
    (folder / record(output, "s0")["typical"]["dark"]["scan"]).unlink()
    simulate(folder, output, network)
    assert len(deformed) == 4


def test_some_people_are_led_to_those_who_are_typical_of_all(done, finished, network, tmp_path):
    folder, _ = done
    study = Study(folder, tmp_path / "some", participants=["s3"])
    table = simulating.simulate(study, network, steps=STEPS, tables=False, progress=False)
    assert table["name"].tolist() == ["s3"]
    for path in (tmp_path / "some").glob("s3*"):
        assert path.read_bytes() == (finished / path.name).read_bytes()


def test_other_settings_need_another_folder(done, network):
    with pytest.raises(ValueError, match="made with .*name another output folder"):
        simulate(*done, network, steps=STEPS + 1)


def test_a_broken_scan_is_left_out_and_named(done, network):
    folder, output = done
    (folder / "s9.nii.gz").write_bytes((folder / "s1.nii.gz").read_bytes()[:900])
    table = simulate(folder, output, network).set_index("scan")
    assert table["problem"].notna().tolist() == [False] * 5 + [True]
    assert table.loc["s9.nii.gz", "problem"].startswith("it is damaged or not a NIfTI")
    assert [path.name for path in output.glob("s9*")] == ["s9_desc-simulated_map.json"]
    summary = json.loads((output / "group/desc-simulated_summary.json").read_text())
    assert summary["problems"].keys() == {"s9.nii.gz"}


# Classes, targets and cards


def test_everybody_can_be_led_to_one_class(scans, tmp_path, network):
    table = simulate(scans, tmp_path / "out", network, target="dark")
    assert set(table["target"]) == {"dark"}
    assert (table["predicted_after"] == "dark").all()
    already = table["predicted"] == "dark"
    assert table.loc[already, "warnings"].str.contains("took this scan for dark before").all()
    assert (table.loc[~already, "warnings"] == "").all()
    # Who is beyond the typical person stays as she is, to the bit.
    still = table.loc[already].sort_values("target_probability").iloc[-1]
    assert "nothing was moved" in still["warnings"]
    name = still["name"]
    volume, _ = grids.read(tmp_path / f"out/{name}{SIMULATED}")
    assert np.array_equal(volume, grids.read(scans / f"{name}.nii.gz")[0])


def test_a_folder_with_one_class_needs_another_that_says_what_is_typical(done, network, tmp_path):
    folder, output = done
    (tmp_path / "bright").mkdir()
    for path in folder.glob("*.nii.gz"):
        if record(output, path.name[:2])["predicted"] == "bright":
            shutil.copy(path, tmp_path / "bright")
    with pytest.raises(ValueError, match="takes none of the 3 good scans of 3 in .* for 'dark'"):
        simulate(tmp_path / "bright", tmp_path / "some", network)
    assert not list((tmp_path / "some").glob("s*"))
    same = Study(folder, tmp_path / "some")
    with pytest.raises(ValueError, match=r"both have s\d.nii.gz.* an output of its own"):
        simulate(tmp_path / "bright", tmp_path / "some", network, typical=same)
    other = Study(folder, tmp_path / "unused")
    table = simulate(tmp_path / "bright", tmp_path / "some", network, typical=other)
    assert (table["predicted_after"] == "dark").all()


@pytest.mark.parametrize("intensity", ["zscore", "zscore_brain", "unit"])
def test_a_network_gets_the_intensities_of_its_card(scans, brains, tmp_path, intensity):
    model = Bright(0.0).eval()
    model.card = {**CARD, "intensity": intensity}
    seen = models.as_the_network_reads(brains, model.card)
    model.threshold.data = model.brightness(seen).sort().values[1:3].mean()
    study = Study(scans, tmp_path / "out", participants=["s1"])
    table = simulating.simulate(study, model, steps=STEPS, progress=False)
    assert table["problem"].isna().all()
    assert (table["predicted"] != table["predicted_after"]).all()
    found = record(tmp_path / "out", "s1")
    assert found["share_of_the_way"] > 0.8
    # The file is a standardised brain like any other, and read like any other.
    volume = torch.from_numpy(grids.read(tmp_path / f"out/s1{SIMULATED}")[0].copy())[None, None]
    assert 0.9 < volume[volume != 0].median() < 1.1
    assert volume[volume != 0].min() > 0.5 * brains[1][brains[1] != 0].min()
    again = models.predict(model, models.as_the_network_reads(volume, model.card)).diff(dim=1)
    assert found["log_odds_of_file"] == pytest.approx(float(again), abs=1e-3)


def test_a_file_that_does_not_convince_is_warned_about(scans, brains, tmp_path):
    """The whole brain grows where the network looks, so all its z-scores change."""
    model = Bright(0.0).eval()
    model.card = {**CARD, "intensity": "zscore"}
    seen = models.as_the_network_reads(brains, model.card)
    model.threshold.data = model.brightness(seen).sort().values[1:3].mean()
    study = Study(scans, tmp_path / "out", participants=["s1"])
    simulating.simulate(study, model, steps=STEPS, progress=False)
    found = record(tmp_path / "out", "s1")
    assert (found["predicted_after"], found["predicted_of_file"]) == ("bright", "dark")
    assert "read from its file, the simulated brain is dark" in found["warnings"]


def test_a_densenet_on_a_crop_of_real_brains(tmp_path):
    """Untrained, so that it is about what a network from elsewhere needs, and not what it says."""
    shape = (40, 48, 40)
    grid = grids.mni(4.0, shape)
    network = DenseNet121(spatial_dims=3, in_channels=1, out_channels=1)  # in training mode
    rule = {"shape": list(shape), "spacing_mm": 4, "intensity": "zscore"}
    network.card = {"classes": ["no", "yes"], **rule}
    crop = tuple(
        slice((n - m) // 2, (n + m) // 2) for n, m in zip((48, 56, 48), shape, strict=True)
    )
    volumes = cohorts.real().volumes[(slice(2), slice(None), *crop)]
    for i in range(2):
        grids.save(volumes[i], grid, tmp_path / f"scans/s{i}.nii.gz")
    logits = models.predict(network, models.as_the_network_reads(volumes, network.card))
    network.class_layers.out.bias.data -= logits[:, 1].mean()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    study = Study(tmp_path / "scans", tmp_path / "out", participants=["s1"])
    table = simulating.simulate(study, network, steps=3, progress=False)
    assert table["problem"].isna().all()
    assert table["share_of_the_way"].abs().max() > 0.1
    written = log_expansion(tmp_path / "out", "s1", f"{IN_MNI[:-1]}4x40x48x40")
    assert written.shape == shape
    assert written.any()
    assert written.isfinite().all()
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


# Networks and options that do not fit


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"classes": ["a", "b", "c"]}, "takes a network with two classes; the card names 3"),
        ({"shape": [24, 8, 24]}, "more than 8 voxels an axis, got"),
        ({"intensity": "odd"}, "the model's card has the intensity 'odd'"),
    ],
)
def test_cards_that_do_not_fit(scans, tmp_path, network, card, message):
    network.card = {**CARD, **card}
    with pytest.raises(ValueError, match=message):
        simulate(scans, tmp_path / "out", network)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("finish", "message"),
    [
        (lambda logits: logits.detach(), "no deformation can be found .* It must be differentiab"),
        (lambda logits: logits.round(), "its slope is 0 in typical brains. It must be differentia"),
        (lambda logits: logits * torch.nan, "fails on the template's brain.* answer is not finite"),
        (lambda logits: (logits, logits), "fails on the template's brain.* puts out a tuple"),
        (lambda logits: logits[:, :1].sigmoid(), "fails on the template's brain.* in a sigmoid"),
        (lambda logits: logits.repeat(1, 2), "fails on the template's.* tells 4 classes apart"),
    ],
)
def test_networks_that_are_refused(scans, tmp_path, threshold, finish, message):
    with pytest.raises(ValueError, match=message):
        simulate(scans, tmp_path / "out", Bright(threshold, finish).eval())
    assert not list((tmp_path / "out").glob("s*"))
    assert not (tmp_path / "out/group").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "light"}, r"there is no class 'light'; the model knows \['dark', 'bright'\]"),
        ({"steps": 0}, "expected steps of 1 or more and a blur_mm above 0, got 0 and 10.0"),
        ({"blur_mm": float("nan")}, "expected steps of 1 or more and a blur_mm above 0"),
    ],
)
def test_options_that_do_not_fit(scans, tmp_path, network, options, message):
    with pytest.raises(ValueError, match=message):
        simulate(scans, tmp_path / "out", network, **options)
    assert not (tmp_path / "out").exists()
