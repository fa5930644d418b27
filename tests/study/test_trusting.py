"""Planting an effect into a study, on networks that see it, that do not, and that never learned."""

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pandas as pd
import pytest
import torch
from small_study import main
from torch import nn

from helpers import attribution, cohorts, errors, evaluation, grids, models
from helpers.study import Study, planting, reporting
from helpers.study.trusting import asking, judging, sanity
from helpers.study.trusting.judging import Setting
from helpers.study.trusting.people import everybody

GRID = grids.mni()
CARD = {"classes": list(planting.CLASSES), "shape": list(GRID.shape), "spacing_mm": 4.0}
PEOPLE = 14


class Looks(nn.Module):
    """Reads the mean brightness of one place, and nothing else."""

    def __init__(self, grid, place):
        super().__init__()
        self.read = nn.Linear(place.numel(), 2)
        with torch.no_grad():
            self.read.weight.zero_()
            self.read.weight[1] = place.flatten().float()
            self.read.bias.zero_()
        self.card = {**CARD, "shape": list(grid.shape), "spacing_mm": grid.spacing_mm[0]}

    def forward(self, volumes):
        return self.read(volumes.flatten(1))


def at_the_temple(grid=GRID):
    """Where a tag may lie, and a little of the brain beside it."""
    center = torch.tensor([-84.0, 10.0, -20.0]).view(3, 1, 1, 1)
    return (grid.centers_mm() - center).square().sum(0).sqrt() < 18


@pytest.fixture(scope="module")
def brains():
    """Healthy people on the network's voxels, each with one voxel that tells who it is."""
    volumes = cohorts.simulate("atrophy", PEOPLE, seed=7, severity=0.0).volumes
    assert (volumes[:, 0, 24, 12, 24] > 0).all()
    volumes[:, 0, 24, 12, 24] = 1 + torch.arange(PEOPLE) / 100
    return volumes


@pytest.fixture(scope="module")
def folder(tmp_path_factory, brains):
    place = tmp_path_factory.mktemp("study")
    for i, volume in enumerate(brains):
        grids.save(volume, GRID, place / f"p{i:02d}.nii.gz")
    return place


@pytest.fixture(scope="module")
def base(brains):
    people = pd.DataFrame({"participant_id": [f"p{i:02d}" for i in range(PEOPLE)]})
    labels = torch.zeros(PEOPLE, dtype=torch.long)
    return cohorts.Cohort(brains, labels, ("everybody",), people, GRID)


@pytest.fixture
def trust(folder, tmp_path):
    def trust(**options):
        options = {"methods": ["gradient"], "folds": 3, "progress": False, **options}
        return asking.trust(Study(folder, tmp_path / "out"), **options)

    return trust


def summary(tmp_path, label="tag"):
    return json.loads((tmp_path / f"out/group/desc-trust{label}_summary.json").read_text())


# Verdicts


def test_a_method_that_finds_the_tag_beats_all_rivals(trust, folder, tmp_path):
    methods = ["input_x_gradient", "gradient"]
    table = trust(effect="tag", model=Looks(GRID, at_the_temple()), methods=methods)
    rows = table.set_index("map")
    assert rows.loc["input_x_gradient", "verdict"] == judging.FOUND
    assert rows.loc["input_x_gradient", "ahead_low"] > 0
    assert rows.loc["input_x_gradient", "average_precision"] > 0.95
    # The same ball in everybody, wherever a person's own tag is: a look at the scan knows more.
    assert rows.loc["gradient", "verdict"] == judging.LEVEL
    assert "distance from healthy mean" in rows.loc["gradient", "because"]
    assert rows.loc["gradient", "ahead_low"] < 0
    assert set(table["kind"]) == {judging.METHOD, judging.BLIND, judging.AWARE, judging.CHANCE}
    assert rows.loc["guessing", "voxel_auc"] == 0.5
    found = summary(tmp_path)
    assert found["network"]["auc"] == 1
    assert not found["refused"]
    assert found["verdicts"]["input_x_gradient"]["verdict"] == judging.FOUND
    [part] = found["reliance"]
    assert part["part"] == "tag"
    assert part["value_low"] > 0
    page = (tmp_path / "out/trust-tag.html").read_text()
    assert "labels were not used" in page
    assert "broken by design" in page
    assert "http" not in page.split("<main>")[1].replace("http://www.w3.org", "")
    forgotten = pd.read_csv(tmp_path / "out/group/desc-trusttag_randomization.tsv", sep="\t")
    assert forgotten["layer"].unique().tolist() == ["read"]
    found = reporting.gather(Study(folder, tmp_path / "out"))
    assert list(found.trials) == ["tag"]
    assert reporting.warnings_of(found) == []  # no maps of these methods are on the page
    found.methods = dict.fromkeys(
        methods, pd.DataFrame({"share_outside_brain": [0.0], "explained": [1], "problem": [None]})
    )
    [said] = reporting.warnings_of(found)
    assert said.startswith("gradient did not find what was planted")
    page = reporting.report(Study(folder, tmp_path / "out")).read_text()
    assert "Do maps find what was planted here?" in page
    assert judging.LEVEL in page


def test_no_verdict_about_a_network_that_never_learned(trust, tmp_path):
    untrained = models.build("course", 2, GRID.shape, seed=3).eval()
    untrained.card = CARD
    table = trust(effect="lesion", model=untrained)
    methods = table[table["kind"] == judging.METHOD]
    assert (methods["verdict"] == judging.NONE).all()
    assert methods["because"].str.contains("not shown that the network sees").all()
    assert methods["average_precision"].notna().all()
    assert "not shown that the network sees" in summary(tmp_path, "lesion")["refused"]
    page = (tmp_path / "out/trust-lesion.html").read_text()
    assert "No conclusion can be drawn" in page
    assert "These scores say nothing" in page
    assert f"<td>{judging.NONE}</td>" in page
    assert f"<td>{judging.FOUND}</td>" not in page


def test_of_given_folds_each_explains_whom_it_has_not_seen(trust, monkeypatch):
    networks = [Looks(GRID, at_the_temple()) for _ in range(2)]
    fold_of = {f"p{i:02d}": i % 2 for i in range(PEOPLE - 1)}  # the last is in no fold
    folds = models.FoldSet(networks, fold_of, networks[0].card)
    asked, scored = {}, judging.person_scores

    def counted(setting, *options, **more):
        for network, rows in setting.networks:
            names = setting.cohort.participants["participant_id"].iloc[rows.tolist()]
            asked.update(dict.fromkeys(names, [*networks, folds].index(network)))
        return scored(setting, *options, **more)

    monkeypatch.setattr(judging, "person_scores", counted)
    table = trust(effect="tag", model=folds, methods=["input_x_gradient"])
    assert table.set_index("map").loc["input_x_gradient", "verdict"] == judging.FOUND
    assert asked == {**fold_of, f"p{PEOPLE - 1:02d}": len(networks)}  # all of them


def test_several_networks_explain_by_the_mean_of_their_maps(base):
    pair = [models.build("course", 2, GRID.shape, seed=seed).eval() for seed in (0, 1)]
    (explain,) = asking._explainers(["gradient"], None).values()
    found = explain(models.Ensemble(pair), base.volumes[:2], torch.tensor([0, 1]))
    each = [attribution.gradient(one, base.volumes[:2], torch.tensor([0, 1])) for one in pair]
    assert torch.equal(found, (each[0] + each[1]) / 2)
    assert not torch.equal(each[0], each[1])


def test_an_effect_that_changes_nothing_is_not_found(trust):
    nothing = planting.lesion(intensity=1.0, opaque=False)

    class Knows(Looks):
        """Reads who it is, so that it cannot be called constant."""

    place = torch.zeros(GRID.shape)
    place[24, 12, 24] = 1
    table = trust(effect=nothing, model=Knows(GRID, place))
    assert table.loc[table["kind"] == judging.METHOD, "verdict"].tolist() == [judging.NONE]


def test_random_maps_of_a_network_that_sees_are_not_found(base):
    """Even where a verdict is allowed."""
    setting = tag_setting(base, Looks(GRID, at_the_temple()))

    def noise(network, volumes, target):
        return torch.rand(volumes.shape, generator=torch.Generator().manual_seed(5))

    people, _ = judging.person_scores(setting, {"noise": noise}, progress=False)
    table = judging.summarised(people, "", seed=0).set_index("map")
    assert table.loc["noise", "verdict"] == judging.MISSED
    assert table["verdict"].drop("noise").eq("").all()


@pytest.mark.parametrize(("true", "voxels"), [(1, 40), (6, 40), (39, 40)])
def test_guessing_is_what_random_orders_score(true, voxels):
    maps = torch.rand(1500, 1, 1, 1, voxels, generator=torch.Generator().manual_seed(1))
    place = (torch.arange(voxels) < true).expand(maps.shape)
    found = evaluation.localization(maps, place, within=torch.ones_like(place))
    expected = judging.guessing(true, voxels)
    for measure, value in expected.items():
        if measure != "relevance_mass":  # of equal numbers
            error = found[measure].std() / len(found) ** 0.5
            assert abs(found[measure].mean() - value) < 4 * error + 1e-9


def test_no_verdict_from_a_handful_of_people():
    lucky = {"planted": 5, "sees": True}
    assert "5 people" in judging.refusal(lucky)


def test_a_lucky_order_of_few_people_is_not_seen(base):
    """The bootstrap of a perfect order is [1, 1] however few there are."""
    setting = tag_setting(base[:6], Looks(GRID, at_the_temple()))
    found = judging.network_scores(setting, seed=0)
    assert found["auc_low"] == 1.0
    assert found["auc_p"] > 0.025
    assert not found["sees"]


# Who has seen whom


def tag_setting(base, network, *, draws=0, folds=3):
    whole = planting.plant(base, planting.tag(), seed=1, draws=draws)
    fold_of, step = whole.folds(folds), max(1, 2 * draws)
    rows = torch.arange(len(whole) // step)
    return Setting(whole[::step], fold_of[::step], whole, fold_of, [(network, rows)], CARD)


@pytest.mark.parametrize("draws", [0, 2])
def test_label_aware_rivals_see_no_test_person(base, draws):
    """What only the people of one fold have is in no map that they are shown."""
    setting = tag_setting(base, Looks(GRID, at_the_temple()), draws=draws)
    assert setting.cohort.participants["participant_id"].is_unique
    marked = setting.known.volumes.clone()
    for label, mark in ((0, 5.0), (1, 9.0)):
        own = (setting.known_folds == 0) & (setting.known.labels == label)
        marked[own, 0, 10:13, 30:33, 20:23] = mark
    secret = replace(setting, known=replace(setting.known, volumes=marked))
    shown = list(zip(judging.rivals(setting), judging.rivals(secret), strict=True))
    for fold, ((rows, blind, aware), (_, blind_2, aware_2)) in enumerate(shown):
        assert (setting.folds[rows] == fold).all()
        volumes = setting.cohort.volumes[rows[:1]]
        for before, after in ((blind, blind_2), (aware, aware_2)):
            same = [torch.equal(before[n](volumes), after[n](volumes)) for n in before]
            assert all(same) if fold == 0 else not all(same)


class Remembers(nn.Module):
    """Keeps who was shown to it in training, by the voxel that tells."""

    def __init__(self):
        super().__init__()
        self.read, self.seen = nn.Linear(1, 2), set()

    def forward(self, volumes):
        who = volumes[:, 0, 24, 12, 24]
        if self.training:
            self.seen |= set(who.mul(100).round().int().tolist())
        return self.read(volumes.mean((2, 3, 4)))


@pytest.mark.parametrize("draws", [0, 2])
def test_nobody_is_explained_by_a_network_that_has_seen_her(trust, monkeypatch, draws):
    explained = []

    def gradient(network, volumes, target=None):
        who = set(volumes[:, 0, 24, 12, 24].mul(100).round().int().tolist())
        if network.seen:  # not the one that only is tried out
            explained.append((who, network.seen))
        return volumes * torch.rand(1)

    monkeypatch.setitem(attribution.METHODS, "gradient", gradient)
    monkeypatch.setattr(sanity, "randomization", lambda *_, **__: (pd.DataFrame(), "left out"))
    effect = planting.lesion(radius_mm=8)
    trust(effect=effect, network=lambda seed: Remembers(), epochs=1, draws=draws, batch_size=4)
    assert len(explained) == 3
    for who, seen in explained:
        assert who
        assert not who & seen
        assert len(seen) >= PEOPLE - 6
    assert len(set().union(*(who for who, _ in explained))) == PEOPLE // 2


def test_labels_of_the_study_are_not_read(folder, trust):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cohorts.participants, "read", lambda *_, **__: pytest.fail("read"))
        patch.setattr(asking.models, "cross_validate", lambda *_, **__: pytest.fail("past it"))
        with pytest.raises(pytest.fail.Exception, match="past it"):
            trust(draws=1)


# Runs


def test_a_finished_run_is_read_and_another_refused(trust, tmp_path, monkeypatch):
    network = Looks(GRID, at_the_temple())
    first = trust(effect="tag", model=network)
    monkeypatch.setattr(judging, "person_scores", lambda *_, **__: pytest.fail("done again"))
    again = trust(effect="tag", model=network)
    pd.testing.assert_frame_equal(first, again, check_dtype=False)
    with pytest.raises(ValueError, match="a run with other seed; name another output"):
        trust(effect="tag", model=network, seed=1)


def test_of_two_runs_at_once_the_second_reads_what_the_first_found(folder, tmp_path, monkeypatch):
    both, asked, tried = threading.Barrier(2), [], asking._tried

    def meet(*_):  # in place of a trial pass: the two share one random generator
        both.wait(timeout=60)

    def counted(*call):
        asked.append(call)
        return tried(*call)

    def run(_):
        model, mine = Looks(GRID, at_the_temple()), Study(folder, tmp_path / "out")
        return asking.trust(mine, effect="tag", model=model, methods=["gradient"], progress=False)

    monkeypatch.setattr(asking, "_check_methods", meet)
    monkeypatch.setattr(asking, "_tried", counted)
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(run, range(2))
    assert len(asked) == 1
    pd.testing.assert_frame_equal(first, second, check_dtype=False)


@pytest.mark.filterwarnings("ignore:a fold leaves:UserWarning")
def test_one_command_on_real_brains(tmp_path, capsys):
    """Both sides are parts of their own; one epoch teaches nothing, and every word says so."""
    people = cohorts.real()[:12]
    for volume, name in zip(people.volumes, people.participants["participant_id"], strict=True):
        grids.save(volume, GRID, tmp_path / f"real/{name}.nii.gz")
    labels = torch.zeros(GRID.shape, dtype=torch.long)
    x, y, z = GRID.centers_mm()
    for label, side in ((1, -1), (2, 1)):
        ball = (x - side * 30).square() + (y + 20).square() + (z - 10).square() < 14**2
        labels[ball] = label
    grids.save(labels[None].float(), GRID, tmp_path / "atlas.nii.gz")
    (tmp_path / "names.csv").write_text("index,name\n1,Ball_L\n2,Ball_R\n")
    command = [
        *("trust", tmp_path / "real", tmp_path / "out", "--effect=shrink", "--percent=30"),
        *("--region=ball", f"--atlas={tmp_path / 'atlas.nii.gz'}"),
        *(f"--atlas-names={tmp_path / 'names.csv'}", "--method", "gradient", "grad_cam"),
        *("--folds=2", "--epochs=1", "--draws=1"),
    ]
    assert main(*command) == 0
    said = capsys.readouterr().out
    assert "gradient: no verdict: it is not shown that the network sees" in said
    assert "grad_cam: no verdict" in said
    assert "trust-shrinkball.html" in said
    found = summary(tmp_path, "shrinkball")
    assert [part["part"] for part in found["reliance"]] == ["Ball_L", "Ball_R"]
    assert found["settings"]["epochs"] == 1
    assert found["settings"]["draws"] == 1
    assert not list((tmp_path / "out/models").glob("trust-*"))
    assert sorted(path.name for path in (tmp_path / "out/group").glob("*")) == [
        "desc-trustshrinkball_randomization.tsv",
        "desc-trustshrinkball_scores.tsv",
        "desc-trustshrinkball_summary.json",
    ]


def test_one_scan_a_person_and_broken_ones_left_out(folder, tmp_path, brains):
    place = tmp_path / "bids"
    for name in (
        "sub-1/ses-a/anat/sub-1_ses-a",
        "sub-1/ses-b/anat/sub-1_ses-b",
        "sub-2/anat/sub-2",
    ):
        grids.save(brains[0], GRID, place / f"{name}_T1w.nii.gz")
    first = place / "sub-1/ses-a/anat/sub-1_ses-a_T1w.nii.gz"
    first.write_bytes(first.read_bytes()[:1000])
    with pytest.warns(errors.LeftOutWarning, match="1 scans left out of bids:\n.*ses-a"):
        people = everybody(Study(place, tmp_path / "out"), GRID, progress=False)
    assert people.participants["scan"].tolist() == [
        "sub-1/ses-b/anat/sub-1_ses-b_T1w.nii.gz",
        "sub-2/anat/sub-2_T1w.nii.gz",
    ]
    [problem] = people.participants.attrs["problems"]
    assert problem["kind"] == "broken scan"
    assert problem["file"] == "sub-1/ses-a/anat/sub-1_ses-a_T1w.nii.gz"


@pytest.mark.filterwarnings("ignore::helpers.errors.LeftOutWarning")
def test_a_broken_scan_is_said_by_the_exit_code(folder, tmp_path, capsys):
    place = shutil.copytree(folder, tmp_path / "scans")
    (place / "broken.nii.gz").write_bytes((place / "p00.nii.gz").read_bytes()[:1000])
    command = ["trust", place, tmp_path / "out", "--effect=tag", "--model=shortcut"]
    for _ in range(2):  # also when the second run only reads what the first has found
        assert main(*command, "--method=gradient") == 1
        assert "broken: broken.nii.gz: " in capsys.readouterr().err


def test_layers_of_a_wrapped_network_forget_one_by_one():
    wrapped = nn.Sequential(nn.Sequential(models.build("course")))
    found = sanity.layers_to_forget(wrapped)
    assert found[0] == "0.0.classifier"
    assert found[-1] == "0.0.block1.0"
    weights = [name for name, part in wrapped.named_modules() if list(part.parameters(False))]
    assert sorted(found) == sorted(weights)
    assert len(sanity.layers_to_forget(models.build("densenet121"))) <= 20


# Requests that cannot be met


def test_wrong_requests(trust, tmp_path):
    network = Looks(GRID, at_the_temple())
    for options, message in (
        ({"effect": "stroke"}, "unknown effect 'stroke'; there are"),
        ({"effect": "shrink"}, "name the region"),
        ({"methods": []}, "one method or more"),
        ({"methods": ["saliency"]}, "unknown method 'saliency'; there are"),
        ({"layer": "read"}, "look at no layer"),
        ({"folds": 8}, "14 people with good scans are too few for 8 folds.* 16 people or more"),
        ({"folds": 1}, "2 folds or more"),
        ({"model": models.pretrained("sex")}, "the classes .*'planted'.* has .'female', 'male'."),
        ({"model": network, "epochs": 3}, "a given model is not trained"),
        ({"model": network, "methods": ["grad_cam"]}, "grad_cam fails with this network"),
    ):
        with pytest.raises(ValueError, match=message):
            trust(**options)
    assert not (tmp_path / "out/group").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--effect=tag", "--percent=20"], "--percent is not of --effect tag"),
        (["--region=ball"], "--region is not of --effect lesion"),
        (["--effect=shrink", "--region=ball"], "needs --region and --atlas"),
        (["--model=shortcut", "--spacing-mm=4"], "has voxels of its own"),
    ],
)
def test_options_that_would_do_nothing(folder, tmp_path, capsys, more, message):
    with pytest.raises(SystemExit) as stopped:
        main("trust", folder, tmp_path / "out", *more)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
