"""The command-line programs run, and what they write can be read back."""

import functools
import inspect
import json
import re
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import pandas as pd
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import pearsonr

from helpers import attribution, cohorts, evaluation, grids, models, results

SCRIPTS = Path(__file__).parent.parent / "data_scripts"


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, SCRIPTS / script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
    )


PROGRAMS = [path.name for path in SCRIPTS.glob("*.py") if "__main__" in path.read_text()]


@pytest.mark.parametrize("script", sorted(PROGRAMS))
def test_every_script_explains_itself(script, monkeypatch, capsys):
    monkeypatch.syspath_prepend(SCRIPTS)  # as Python does for a script
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit, match="^0$"):
        runpy.run_path(str(SCRIPTS / script), run_name="__main__")
    assert "usage:" in capsys.readouterr().out


def test_simulated_cohort_on_disk_is_the_one_in_memory(tmp_path):
    done = run("simulate_cohort.py", "lesion", tmp_path, "--subjects=3", "--spacing-mm=8")
    assert done.returncode == 0, done.stderr
    cohort = cohorts.simulate("lesion", 3, grid=grids.mni(8.0))
    table = pd.read_csv(tmp_path / "participants.tsv", sep="\t")
    assert table["diagnosis"].tolist() == cohort.participants["diagnosis"].tolist()
    for i, name in enumerate(table["participant_id"]):
        scan = nib.load(tmp_path / name / "anat" / f"{name}_T1w.nii.gz")
        assert (scan.get_fdata() == cohort.volumes[i, 0].numpy()).all()
        assert (scan.affine == cohort.grid.affine).all()
        mask = nib.load(tmp_path / "derivatives/truth" / name / "anat" / f"{name}_mask.nii.gz")
        assert mask.get_fdata().sum() == cohort.truth.mask[i].sum()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system has no /proc")
def test_the_measure_of_memory_sees_a_cohort_that_is_held(tmp_path):
    words = ("--people=24", "--different=4", "--spacing-mm=4", f"--folder={tmp_path}")
    done = run("measure_memory.py", *words)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "memory.json").read_text())
    assert found["people"] == 24
    assert 0.1 < found["peak_gb"] < 1.5


def test_a_device_is_added_to_the_others(tmp_path, monkeypatch):
    script = runpy.run_path(str(SCRIPTS / "measure_throughput.py"))
    names = script["main"].__globals__
    for name in ("study_of_twelve", "training", "maps", "deformations"):
        monkeypatch.setitem(names, name, lambda name=name: {name: 1.0})
    monkeypatch.setattr(sys, "argv", ["measure_throughput.py", f"--folder={tmp_path}"])
    for device in ("a", "b", "a"):
        monkeypatch.setitem(names, "device_name", lambda device=device: device)
        script["main"]()
    found = json.loads((tmp_path / "throughput.json").read_text())["devices"]
    assert sorted(found) == ["a", "b"]
    assert set(found["a"]["measured"]) >= {"training", "maps", "peak_memory_gb"}


def test_the_entrants_simulate_their_people_once(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    script = runpy.run_path(str(SCRIPTS / "entrants.py"))
    heads = script["SimulatedHeads"]()
    small, seeds = grids.mni(8.0), []
    simulate = cohorts.simulate

    def watched(task, subjects, seed):
        seeds.append((task, seed))
        return simulate(task, min(subjects, 12), seed, grid=small)

    monkeypatch.setattr(cohorts, "simulate", watched)
    cohort = simulate("lesion", 2, grid=small)
    for seed in (0, 1):  # two networks that were trained alike
        network = models.build("course", 5, cohort.grid.shape, seed=seed).eval()
        for name in ("expected_gradients", "distance from healthy mean"):
            _, method = script["entrants"]("lesion", heads)[name]
            method(network, cohort.volumes, cohort.labels)
    assert sorted(seeds) == [("lesion", 522), ("lesion", 523)]


TOY = """
import functools
import os
import torch
from beside_the_toy import smooth
from helpers import attribution

def slope(model, volumes, target):
    return attribution.gradient(model, volumes, target)

half = functools.partial(smooth, width=0.5)

def needs_memory(model, volumes, target):
    if "OUT_OF_MEMORY" in os.environ:
        raise MemoryError("no room")
    return volumes

def too_few(model, volumes, target):
    return volumes[:1]

def not_numbers(model, volumes, target):
    return volumes / 0

def of_numpy(model, volumes, target):
    return volumes.numpy()

def careless(model, volumes, target):
    with torch.no_grad():
        next(model.parameters()).add_(1)
    return volumes

def spoils_the_scans(model, volumes, target):
    return volumes.zero_() + 1

def fails(model, volumes, target):
    raise RuntimeError("out of ideas")
"""


BESIDE = """
def smooth(model, volumes, target, width):
    return volumes * width
"""


@pytest.fixture(scope="module")
def shared_parts(tmp_path_factory):
    """Where all tests of the benchmark leave what they have computed; none gets another's."""
    return tmp_path_factory.mktemp("parts")


@pytest.fixture
def board(tmp_path, shared_parts, monkeypatch):
    """The benchmark on small brains and networks; ``run(function)`` returns the rows so far."""
    monkeypatch.syspath_prepend(SCRIPTS)
    script = runpy.run_path(str(SCRIPTS / "benchmark.py"))
    names = script["main"].__globals__
    networks = {}
    for seed in (0, 1):
        networks[seed] = models.build("course", 2, grids.mni(8.0).shape, seed=seed).eval()
        networks[seed].card = {
            "task": "atrophy",
            "network": "course",
            "classes": ["control", "patient"],
            "shape": grids.mni(8.0).shape,
        }
    simulate, reliance, asked = cohorts.simulate, evaluation.reliance, []
    monkeypatch.setattr(models, "pretrained", lambda task, seed: networks[seed])
    monkeypatch.setattr(
        cohorts, "simulate", lambda *args, **kw: simulate(*args, **{"grid": grids.mni(8.0), **kw})
    )
    monkeypatch.setattr(
        evaluation, "reliance", lambda *args, **kw: asked.append(1) or reliance(*args, **kw)
    )
    monkeypatch.setitem(names, "NETWORKS", {"atrophy": (0, 1), "atrophy_real": (0, 1)})
    monkeypatch.setitem(names, "SHIPPED", tmp_path / "shipped" / "leaderboard.json")
    for people, count in {"SCORED_PEOPLE": 4, "CHOICE_PEOPLE": 2}.items():
        monkeypatch.setitem(names, people, count)
        monkeypatch.setattr(sys.modules["heads"], people, count)
    (tmp_path / "toy.py").write_text(TOY)
    (tmp_path / "beside_the_toy.py").write_text(BESIDE)
    monkeypatch.setattr(sys, "path", list(sys.path))  # the program adds the toy's folder

    def run(function, *more, parts=shared_parts):
        options = [*more, f"--parts={parts}", f"--folder={tmp_path}"]
        options.append(f"--method={tmp_path / 'toy.py'}:{function}")
        monkeypatch.setattr(sys, "argv", ["benchmark.py", *options])
        run.status = 0
        try:
            script["main"]()
        except SystemExit as stop:
            if stop.code != 1:  # 1: it went through, and something had a problem
                raise
            run.status = 1
        rows = pd.DataFrame(results_of(tmp_path)["rows"])
        return rows.reindex(columns=rows.columns.union(["form"])).set_index(["method", "form"])

    run.networks, run.asked, run.folder, run.names = networks, asked, tmp_path, names
    return run


def results_of(folder):
    return json.loads((folder / "leaderboard.json").read_text())


def test_anybodys_method_gets_a_row(board):
    rows = board("slope")
    assert list(rows.index) == [("slope", "signed"), ("slope", "absolute")]
    row = rows.loc[("slope", "absolute")]
    assert row["kind"] == "yours"
    assert set(row["measures"]) == set(row["untrained"]) >= {"within_pearson", "across_pearson"}
    mean, low, high = row["measures"]["average_precision"]
    assert 0 <= low <= mean <= high <= 1
    assert set(row["widths"]) == {"0", "1"}
    facts = results_of(board.folder)["tasks"]["atrophy"]
    assert facts["people"] == {"scored": [520, 4], "choice": [521, 2]}
    assert facts["networks"]["0"]["sha256"] != facts["networks"]["1"]["sha256"]
    assert 0 <= facts["networks"]["0"]["misclassified"] <= 4


@pytest.fixture
def real_heads(monkeypatch):
    """Stand-ins for the scans of two sites, on a small grid."""

    def scans(name, count, seed):
        people = cohorts.simulate("sex", count, seed=seed, grid=grids.mni(8.0))
        table = people.participants.assign(participant_id=[f"{name}-{i}" for i in range(count)])
        return replace(people, truth=None, parameters=None, participants=table)

    sites = {"ixi": scans("ixi", 20, 1), "ds002748": scans("ds", 5, 2)}
    monkeypatch.setattr(cohorts, "ixi", lambda folder: sites[folder.name])
    monkeypatch.setattr(cohorts, "from_bids", lambda folder: sites[folder.name])
    monkeypatch.syspath_prepend(SCRIPTS)
    heads = runpy.run_path(str(SCRIPTS / "heads.py"))["RealHeads"]
    return heads(Path("ixi"), Path("ds002748")), sites


def test_in_real_heads_nobody_is_scored_or_chosen_on_who_was_learned_from(real_heads, monkeypatch):
    heads, sites = real_heads
    card = {"training": {"plantings": 3, "seed": 40, "alone": 0.5}}
    monkeypatch.setattr(models, "pretrained", lambda task: SimpleNamespace(card=card))
    scored, choice = heads.scored("mixed_real"), heads.choice("mixed_real")
    learners = heads.learners("mixed_real")
    of = {
        "scored": set(scored.participants["participant_id"]),
        "choice": set(choice.participants["participant_id"]),
        "learned": set(learners.participants["participant_id"]),
    }
    # Everybody of the other site, though a planting makes patients of half of them.
    assert of["scored"] == set(sites["ds002748"].participants["participant_id"])
    assert len(scored) == len(of["scored"])
    for cohort in (scored, choice):
        assert all(cohorts.planted_parts(cohort, i) for i in range(len(cohort)))
    assert len(of["choice"]) >= 1
    assert len(of["learned"]) == 16
    assert len(learners) == 3 * 16
    assert not of["learned"] & (of["choice"] | of["scored"])
    alone = [len(cohorts.planted_parts(learners, i)) == 1 for i in range(len(learners))]
    assert sum(alone) > len(learners) / 8
    assert all(any(torch.equal(v, w) for w in sites["ixi"].volumes) for v in heads.healthy(""))


def test_the_benchmark_plants_into_real_heads_if_it_is_told_where_they_are(board, real_heads):
    with pytest.raises(SystemExit, match="with --ds002748"):
        board("slope", "--tasks=atrophy_real")
    rows = board("slope", "--ixi=ixi", "--ds002748=ds002748")
    assert sorted(rows["task"].unique()) == ["atrophy", "atrophy_real"]
    assert "measures" in rows
    assert set(board("slope")["task"]) == {"atrophy", "atrophy_real"}  # they stay on the board


def test_networks_in_real_heads_are_scored_on_people_whom_they_have_not_seen(
    real_heads, tmp_path, monkeypatch
):
    _, sites = real_heads
    script = runpy.run_path(str(SCRIPTS / "train_real_heads.py"))
    names, trained_on, scored_on = script["main"].__globals__, [], []
    for name, value in {"PLANTINGS": 2, "HELD_OUT_PLANTINGS": 2, "EPOCHS": 1}.items():
        monkeypatch.setitem(names, name, value)
    monkeypatch.setitem(names, "shares", lambda model, people: {})
    network = models.build("course", 2, grids.mni(8.0).shape).eval()
    network.card = {
        "network": "course",
        "classes": ["control", "patient"],
        "shape": list(grids.mni(8.0).shape),
        "spacing_mm": 8.0,
    }
    monkeypatch.setattr(models, "pretrained", lambda task, seed: network)
    train, scored = models.train, script["scored"]

    def watched(model, cohort, **options):
        trained_on.append(cohort)
        return train(model, cohort, **options)

    monkeypatch.setattr(models, "train", watched)
    monkeypatch.setitem(
        names, "scored", lambda model, people: scored_on.append(people) or scored(model, people)
    )
    folders = ["--ixi=ixi", "--ds002748=ds002748", f"--folder={tmp_path}"]
    options = [*folders, f"--checkpoints={tmp_path}", "--seeds", "1"]
    monkeypatch.setattr(sys, "argv", ["train_real_heads.py", *options])
    script["main"]()
    (cohort,) = trained_on
    learned = set(cohort.participants["participant_id"])
    assert (len(learned), len(cohort)) == (16, 2 * 16)
    for people in scored_on:
        assert not learned & set(people.participants["participant_id"])
    card = json.loads((tmp_path / "mixed_real-1.json").read_text())
    assert card["training"]["starts_from"] == "mixed-1"
    assert card["held_out"]["IXI"]["people"] == 4
    of_site = card["held_out"]["ds002748"]
    assert of_site["people"] == len(sites["ds002748"])
    assert 0 <= of_site["accuracy_low"] <= of_site["accuracy"] <= of_site["accuracy_high"] <= 1


def test_the_benchmark_resumes_and_notices_another_method(board, tmp_path):
    first = board("slope", parts=tmp_path / "parts")
    assert len(board.asked) == 2  # the people scored and those of the choice
    again = board("slope", parts=tmp_path / "parts")
    assert len(board.asked) == 2
    assert again["measures"].tolist() == first["measures"].tolist()
    toy = board.folder / "toy.py"
    toy.write_text(toy.read_text().replace("target)\n\nhalf", "target) * volumes\n\nhalf"))
    with pytest.warns(UserWarning, match="computed anew"):
        other = board("slope", parts=tmp_path / "parts")
    assert len(other) == 2
    assert other["measures"].iloc[0] != first["measures"].iloc[0]


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        ("too_few", "expected maps of shape .* got .1, 1, 24, 28, 24."),
        ("not_numbers", "expected finite maps, .* voxels are not"),
        ("of_numpy", "expected a tensor of maps, got ndarray"),
        ("careless", "the method has changed the network"),
        ("fails", "RuntimeError: out of ideas"),
    ],
)
def test_a_method_with_a_problem_is_named_and_others_go_on(board, capsys, function, problem):
    rows = board(function)
    assert re.search(problem, rows["problem"].iloc[0])
    assert re.search(f"atrophy {function}: .*{problem}", capsys.readouterr().out)
    assert board.status == 1
    assert not board.asked  # two people are enough to notice: nothing long was computed
    assert len(board("slope").dropna(subset=["measures"])) == 2
    assert board.status == 0


def test_a_problem_is_not_remembered(board):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUT_OF_MEMORY", "1")
        assert "MemoryError" in board("needs_memory")["problem"].iloc[0]
    assert "problem" not in board("needs_memory")


def test_a_method_of_the_course_is_not_overwritten(board):
    toy = board.folder / "toy.py"
    toy.write_text(toy.read_text().replace("def slope", "def gradient"))
    with pytest.raises(SystemExit, match="gradient is a method of the course"):
        board("gradient")


def test_a_new_board_begins_with_the_rows_that_ship(board):
    board("slope")
    shipped = board.names["SHIPPED"]
    shipped.parent.mkdir()
    (board.folder / "leaderboard.json").rename(shipped)
    rows = board("half")
    assert set(rows.index.get_level_values("method")) == {"slope", "half"}
    assert "half" not in shipped.read_text()


def test_a_method_cannot_spoil_the_scans_of_others(board):
    first = board("slope")["measures"].to_dict()
    board("spoils_the_scans")
    again = board("slope")
    assert again["measures"].loc["slope"].to_dict() == {k[1]: v for k, v in first.items()}


def test_rows_of_other_networks_are_not_mixed(board):
    board("slope")
    with torch.no_grad():
        board.networks[0].classifier.weight.mul_(2)
    with pytest.raises(SystemExit, match="made with other networks or people"):
        board("slope", parts=board.folder / "parts")


def test_widths_are_chosen_on_networks_of_other_seeds(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    script = runpy.run_path(str(SCRIPTS / "benchmark.py"))

    def best(width):
        scores = [float(w == width) for w in range(4)]
        one = pd.DataFrame({"width": range(4), "planted": scores, "reliance": scores[::-1]})
        return pd.concat([one.assign(form=form) for form in ("signed", "absolute")])

    swept = {0: best(0), 1: best(2)}
    assert script["chosen_widths"](swept, 0)["signed"] == {"planted": 2, "reliance": 1}
    assert script["chosen_widths"](swept, 1)["absolute"] == {"planted": 0, "reliance": 3}
    assert script["chosen_widths"]({0: best(0)}, 0)["signed"]["planted"] == 0


def test_a_method_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    load = runpy.run_path(str(SCRIPTS / "benchmark.py"))["load_method"]
    for wrong in ("nowhere.py:slope", "toy.py"):
        with pytest.raises(SystemExit, match=f"expected a file and a function, .* got '{wrong}'"):
            load(wrong)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "toy.py").write_text(TOY)
    (tmp_path / "beside_the_toy.py").write_text(BESIDE)
    with pytest.raises(SystemExit, match="has no function 'other'"):
        load(f"{tmp_path / 'toy.py'}:other")


@pytest.fixture
def strength_study(monkeypatch):
    """The names of the program, for a grid of 8 mm and a handful of people."""
    names = runpy.run_path(str(SCRIPTS / "study_strength.py"))["main"].__globals__
    small = {
        "GRID": grids.mni(8.0),
        "SEVERITIES": (0.5,),
        "PEOPLE": (0, 4, 8),
        "SEEDS": (0, 1),
        "METHODS": ("gradient", "expected_gradients"),
        "HELD_OUT_PEOPLE": 4,
        "EXPLAINED_PATIENTS": 2,
        "VOLUMES": 16,
        "BATCH": 4,
    }
    for name, value in small.items():
        monkeypatch.setitem(names, name, value)
    return names


def test_the_study_of_strength_goes_on_where_it_stopped(strength_study, tmp_path, monkeypatch):
    done, written = [], []

    def watch(owner, name, put):
        compute = owner[name] if isinstance(owner, dict) else getattr(owner, name)

        def watched(*arguments, **options):
            done.append(name)
            return compute(*arguments, **options)

        watched.__signature__ = inspect.signature(compute)
        put(owner, name, watched)

    for name in ("judge", "explain"):
        watch(strength_study, name, monkeypatch.setitem)
    watch(models, "train", monkeypatch.setattr)
    watch(cohorts, "simulate", monkeypatch.setattr)
    monkeypatch.setattr(results, "write", lambda name, result: written.append((name, result)))
    monkeypatch.setattr(sys, "argv", ["study_strength.py", f"--parts={tmp_path}"])
    strength_study["main"]()
    # The learners of two seeds, who is tested, who is explained.
    assert done.count("simulate") == 2 + 1 + 1
    assert (done.count("train"), done.count("judge"), done.count("explain")) == (4, 1, 6)
    done.clear()
    strength_study["learners"].cache_clear()
    strength_study["explained"].cache_clear()
    strength_study["main"]()
    assert done == []
    assert written[0] == written[1]
    name, result = written[0]
    assert name == "strength_study"
    assert {(row["severity"], row["people"]) for row in result["accuracy"]} == {
        (0.5, people) for people in (0, 4, 8)
    }
    methods = {"gradient", "expected_gradients", "edges of the scan"}
    assert {row["method"] for row in result["maps"]} == methods
    assert len(result["networks"]) == 6
    assert all(row["mean"] > 0 for row in result["margins"]), result["margins"]
    json.dumps(result)

    # A network that was lost is trained again, to the bit, so that all that rests on it stands.
    next(tmp_path.glob("*network, seed 1, 8 people*")).unlink()
    strength_study["main"]()
    assert done == ["simulate", "train"]
    assert written[2] == written[0]


def test_a_smaller_study_is_the_beginning_of_a_larger_one(strength_study, monkeypatch):
    shown, steps = [], []

    def seen(model, cohort, *, epochs, batch_size, **_):
        shown.append(cohort.volumes)
        steps.append(epochs * (len(cohort) // batch_size))

    monkeypatch.setattr(models, "train", seen)
    for seed, people in ((0, 4), (0, 8), (1, 8)):
        strength_study["learn"](1.0, seed, people)
    few, many, others = shown
    assert torch.equal(few, many[:4])
    assert not (others[0] == many).flatten(1).all(1).any()
    assert steps == [4, 4, 4]


def test_the_same_heads_are_explained_at_every_strength(strength_study):
    (faint, healthy), (strong, _) = (strength_study["explained"](s) for s in (0.5, 1.0))
    assert (faint.labels.tolist(), healthy.labels.tolist()) == ([1, 1], [0, 0])
    assert (faint.participants["head_size"] == strong.participants["head_size"]).all()
    half, whole = (c.participants.filter(like="strength") for c in (faint, strong))
    assert 2 * half.to_numpy() == pytest.approx(whole.to_numpy())
    assert whole.to_numpy().max() > 0


class ReadsOnePlace(torch.nn.Module):
    """The darker a place, the more of a patient."""

    def __init__(self, place):
        super().__init__()
        self.place = place

    def forward(self, volumes):
        bright = (volumes * self.place).flatten(1).sum(1)
        return torch.stack([bright, -bright], 1)


def test_the_gradient_knows_a_network_of_one_place(strength_study):
    grid, place = strength_study["GRID"], "hippocampus right"
    network = ReadsOnePlace(cohorts.planted_structures("atrophy", grid, within=0.5)[place])
    truth = strength_study["judge"]({"by hand": network}, 1.0)
    right = truth["answers"]["balanced_accuracy"]
    assert truth["networks"]["balanced_accuracy"].tolist() == [right.mean()]
    rated = strength_study["rate"](strength_study["explain"](network, 1.0), truth["parts"])
    rated = rated.set_index(["participant_id", "method"])
    people, _ = strength_study["explained"](1.0)
    of_place = []
    for i, name in enumerate(people.participants["participant_id"]):
        worth = truth["parts"].query("participant_id == @name").set_index("part")["value"]
        places = cohorts.part_places(people, i)
        # The gradient is 1 in the place and 0 elsewhere; a part that nobody planted is worth 0.
        read = [float(network.place[voxels[0]].float().mean()) for voxels in places.values()]
        used = [worth.get(part, 0.0) / int(voxels.sum()) for part, voxels in places.items()]
        known = pearsonr(read, used).statistic
        assert rated.loc[(name, "gradient"), "reliance"] == pytest.approx(known)
        if place in worth:  # its strength is zero in two of five
            of_place.append((known, rated.loc[(name, "edges of the scan"), "reliance"]))
    assert of_place
    assert all(blind < 0.8 < known for known, blind in of_place)


class Weighted(torch.nn.Module):
    """Margin of the second class: a weighted sum of the voxels; its gradient is the weights."""

    def __init__(self, weights, offset=0.0):
        super().__init__()
        self.register_buffer("weights", weights)
        self.offset = offset

    def forward(self, volumes):
        score = (volumes * self.weights).sum((1, 2, 3, 4)) + self.offset
        return torch.stack([torch.zeros_like(score), score], 1)


@pytest.fixture
def tag_study(monkeypatch):
    """Load the tag study with large voxels, few people and two methods."""
    script = runpy.run_path(str(SCRIPTS / "study_tags.py"))
    names = script["main"].__globals__
    few = {"VOLUMES": 16, "HELD_OUT_SUBJECTS": 40, "CARRIERS": 3}
    for name, value in {"SEEDS": (0,), "EPOCHS": 1, "SPACING_MM": 8.0, **few}.items():
        monkeypatch.setitem(names, name, value)
    methods = {name: attribution.METHODS[name] for name in ("gradient", "expected_gradients")}
    monkeypatch.setattr(attribution, "METHODS", methods)
    return SimpleNamespace(**{**script, "names": names})


def test_the_tag_study_compares_the_tag_with_the_brain_that_it_left_as_it_was(tag_study):
    cohort, elsewhere = tag_study.carriers()
    assert cohort.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert cohort.truth.shortcut.flatten(1).any(1).all()
    assert not (elsewhere & cohort.truth.shortcut).any()
    for i in range(len(cohort)):
        *others, tag = cohorts.planted_parts(cohort, i)
        assert tag == "tag"
        without = torch.tensor([[True] * len(others) + [False]])
        plain = cohorts.twins(cohort, i, present=without).volumes[0]
        # What the tag fills by less than a half is neither tag nor rest.
        assert torch.equal(elsewhere[i], (plain != 0) & (plain == cohort.volumes[i]))
        assert elsewhere[i].sum() > 0.95 * (plain != 0).sum()


def test_the_arms_of_the_tag_study_differ_in_the_tag_alone(tag_study):
    arms = {arm: tag_study.people(arm, 0) for arm in ("label", "random", "none", "untrained")}
    tags = {arm: cohort.participants["tag"].to_numpy() for arm, cohort in arms.items()}
    patient = arms["none"].labels.numpy() == 1
    assert (tags["label"] == patient).all()
    assert not tags["none"].any()
    assert not tags["untrained"].any()
    assert 0 < tags["random"][patient].mean() == tags["random"][~patient].mean() < 1
    for cohort in arms.values():
        assert torch.equal(cohort.labels, arms["none"].labels)
        for ours, theirs in zip(cohort.parameters, arms["none"].parameters, strict=True):
            (spot,), (same,) = ours.disease, theirs.disease
            assert ours.variation.noise_seed == theirs.variation.noise_seed
            assert torch.equal(spot.center_mm, same.center_mm)
    heads = [
        set(arms["none"].participants["noise"]),
        set(tag_study.people("none", 1).participants["noise"]),
    ]
    heads.append(set(tag_study.held_out("none").participants["noise"]))
    assert len(set.union(*heads)) == sum(map(len, heads))


def test_a_detector_of_the_tag_shows_it_and_a_network_that_ignores_it_does_not(tag_study):
    cohort, elsewhere = tag_study.carriers()
    plain, tagged = (tag_study.held_out(tag).volumes for tag in ("none", "label"))
    touched = (plain != tag_study.held_out("random").volumes).any(0) | (plain != tagged).any(0)
    beside = touched & (plain == 0).all(0)
    detector = Weighted(torch.where(beside, 1.0, 1e-6), offset=-0.05)
    blind = Weighted(torch.where(touched, 0.0, 1.0))

    (shown,) = tag_study.explained("gradient", detector, "label", 0).values()
    tag, rest = cohort.truth.shortcut, elsewhere
    expected = [
        float(detector.weights[t].mean() / detector.weights[r].mean())
        for t, r in zip(tag, rest, strict=True)
    ]
    assert shown["ratio"].tolist() == pytest.approx(expected, rel=1e-5)
    assert shown["ratio"].min() > 20
    assert shown["brighter_than"].min() > 0.95
    assert shown["diagnosis"].tolist() == ["control"] * 3 + ["patient"] * 3
    (hidden,) = tag_study.explained("gradient", blind, "label", 0).values()
    assert hidden["ratio"].tolist() == [0.0] * 6
    assert hidden["brighter_than"].tolist() == [0.0] * 6

    used = tag_study.relied_on(detector)["table"].set_index("part").loc["tag"]
    assert len(used) == 6
    assert used["towards_patient"].min() > 0.1  # in controls too, against their own class
    unused = tag_study.relied_on(blind)["table"].set_index("part")
    assert unused.loc["tag", "size"].tolist() == [0.0] * 6
    assert (unused.loc["disease", "towards_patient"] < 0).all()  # the spot is dark

    right = tag_study.tested(detector)["table"].groupby("tag")["balanced_accuracy"].mean()
    assert right["label"] == 1
    assert right["none"] == 0.5
    assert right["random"] < 0.8


def test_an_empty_map_is_counted_and_has_no_ratio(tag_study):
    cohort, _ = tag_study.carriers()
    maps = torch.rand(cohort.volumes.shape)
    maps[1] = 0
    table = tag_study.brightness({"some method": -maps})
    assert table["empty"].tolist() == [0, 1, 0, 0, 0, 0]
    assert table["ratio"].isna().tolist() == [False, True] + [False] * 4
    assert table["ratio"].dropna().between(0.3, 3).all()  # the size counts, not the sign


def test_the_tag_study_resumes_and_computes_nothing_twice(tag_study, tmp_path, monkeypatch):
    done, written = [], []

    def watch(name):
        compute = tag_study.names[name]

        @functools.wraps(compute)
        def watched(*arguments):
            done.append((name, *(a for a in arguments if isinstance(a, str))))
            return compute(*arguments)

        monkeypatch.setitem(tag_study.names, name, watched)

    for name in ("trained", "tested", "relied_on", "explained", "rivals"):
        watch(name)
    monkeypatch.setattr(results, "write", lambda name, result: written.append((name, result)))
    monkeypatch.setattr(sys, "argv", ["study_tags.py", f"--parts={tmp_path}"])
    tag_study.main()
    # Three arms are trained and have rivals; the untrained network has only maps and scores.
    assert len(done) == 3 * (1 + 1 + 1 + 2 + 1) + (1 + 1 + 2)
    before = list(done)
    (tmp_path / "0 random gradient.safetensors").unlink()
    tag_study.main()
    assert done[len(before) :] == [("explained", "gradient", "random")]
    assert written[0] == written[1]

    name, result = written[0]
    assert name == "tag_study"
    json.dumps(result, allow_nan=False)
    accuracy, reliance, maps = (pd.DataFrame(result[n]) for n in ("accuracy", "reliance", "maps"))
    arms = {"label", "random", "none", "untrained"}
    assert set(zip(accuracy["arm"], accuracy["tag"], strict=True)) == {
        (arm, tag) for arm in arms for tag in ("label", "random", "none")
    }
    assert set(reliance["part"]) == {"tag", "disease"}
    assert set(maps["arm"]) == arms
    assert set(maps["diagnosis"]) == {"control", "patient"}
    assert {"gradient", "expected_gradients", "(brightness)", "(t-map)"} < set(maps["method"])
    # Nobody in this study has a tag, so a map of its labels cannot show one.
    rows = maps[(maps["arm"] == "none") & (maps["method"] == "(t-map)")]
    assert rows.loc[rows["measure"] == "ratio", "mean"].tolist() == [0, 0]


@pytest.fixture
def hole_study(monkeypatch):
    """Load the hole study with large voxels, few people and networks by hand."""
    script = runpy.run_path(str(SCRIPTS / "study_holes.py"))
    names = script["main"].__globals__
    small = {"HOLE_SUBJECTS": 4, "MASK_SUBJECTS": 6, "MASK_SEEDS": (541, 542), "BOX_VOXELS": 4}
    small |= {"NETWORKS": (0, 1), "FOLD_SEEDS": (0,), "FRACTIONS": (0.05,), "DARKENED": 0.02}
    for name, value in small.items():
        monkeypatch.setitem(names, name, value)
    simulate = functools.partial(cohorts.simulate, grid=grids.mni(8.0))
    monkeypatch.setattr(cohorts, "simulate", simulate)
    quick = functools.partial(evaluation.intervals, resamples=10)
    monkeypatch.setattr(evaluation, "intervals", quick)
    return SimpleNamespace(**{**script, "names": names})


def test_a_hole_has_the_voxels_and_the_filling_that_it_says(hole_study):
    person = hole_study.patients()
    assert person.labels.tolist() == [1, 1]
    parts = cohorts.planted_parts(person, 1)
    right = [part == "lateral ventricle right" for part in parts]
    present = torch.tensor([[False] * 4, right])
    healthy, twin = cohorts.twins(person, 1, present=present).volumes
    brain = healthy != 0
    place = cohorts.part_places(person, 1)["lateral ventricle right"]
    reach = cohorts.part_places(person, 1, within=1.5)["lateral ventricle right"]

    (first, as_it_is), *rest = hole_study.pictures(1)
    assert first == {"shape": "none"}
    assert torch.equal(as_it_is, healthy)
    seen = 0
    for facts, holed in rest:
        if facts["ventricle"] != "lateral ventricle right":
            continue
        if facts["shape"] == "grown twin":
            assert torch.equal(holed, twin)
            continue
        changed = holed != healthy
        assert not (changed & ~brain).any(), facts
        if facts["border"] == "soft":
            assert changed.sum() > facts["voxels"], facts
            continue
        seen += 1
        assert changed.sum() <= facts["voxels"], facts
        if facts["place"] == "elsewhere":
            assert not (changed & place).any(), facts
        elif facts["shape"] == "ventricle":
            assert not (changed & ~reach).any(), facts
            assert (healthy - twin)[changed].min() >= 0.02, facts
        if facts["fill"] == "grown twin":
            assert torch.equal(holed[changed], twin[changed])
        elif facts["fill"] != "blurred":
            assert holed[changed].unique().tolist() == pytest.approx([facts["brightness"]])
    assert seen == 2 * (9 + 8)  # shapes; fills there and elsewhere


def test_a_hole_elsewhere_keeps_its_form_and_lies_where_it_may(hole_study):
    hole = torch.zeros(1, 16, 20, 24, dtype=torch.bool)
    hole[0, 3, 4:6, 5:8] = hole[0, 4, 5, 7] = True
    free = torch.zeros_like(hole)
    free[0, 6:12, 8:19, 2:23] = True
    places = set()
    for seed in range(12):
        there = hole_study.moved(hole, free, torch.Generator().manual_seed(seed))
        assert not (there & ~free).any()
        shift = (there[0].nonzero() - hole[0].nonzero()).unique(dim=0)
        assert len(shift) == 1  # all voxels by as much
        places.add(tuple(shift[0].tolist()))
    assert len(places) > 6
    free[:] = False
    free[0, 6, :, :] = True  # too thin
    with pytest.raises(ValueError, match="a hole of 7 voxels fits nowhere else"):
        hole_study.moved(hole, free, torch.Generator())


def test_each_dark_fill_has_one_that_is_brighter_by_as_much(hole_study):
    volume = 0.5 + torch.rand(1, 16, 20, 24, generator=torch.Generator().manual_seed(0))
    hole = torch.zeros(1, 16, 20, 24, dtype=torch.bool)
    hole[0, 3:9, 4:12, 5:20] = True
    soft = 0.5 * hole  # the tissue shines through: by half in every voxel, so the mean is the same
    tissue = float(volume[hole].double().mean())
    assert hole_study.filled(volume, soft, 0.7)["mean"] == pytest.approx(tissue)
    fills = hole_study.filled(volume, hole.float(), 0.7)
    assert fills["mean"] == pytest.approx(tissue)
    for name, dark in {"air": 0.0, "fluid": 0.7, "brain": 1.0}.items():
        assert fills[name] == dark
        assert fills[f"{name}, mirrored"] - tissue == pytest.approx(tissue - dark, abs=1e-5)
    blurred = gaussian_filter(volume[0].numpy(), 4.0, mode="nearest")
    assert fills["blurred"][0].numpy() == pytest.approx(blurred, abs=1e-5)


def test_a_soft_hole_takes_as_much_and_has_no_sharp_border(hole_study):
    hole = torch.zeros(1, 16, 20, 24, dtype=torch.bool)
    hole[0, 5:10, 7:12, 8:16] = True
    mask = hole_study.soft(hole)
    assert float(mask.sum()) == pytest.approx(int(hole.sum()), rel=1e-4)
    assert max(float(mask.diff(dim=d).abs().max()) for d in (1, 2, 3)) < 0.45  # sharp: 1


def test_halves_tell_a_reader_of_darkness_from_a_reader_of_edges(hole_study):
    volume = torch.full((1, 16, 20, 24), 1.2)
    hole = torch.zeros(1, 16, 20, 24, dtype=torch.bool)
    hole[0, 5:10, 7:12, 8:16] = True
    fills = hole_study.filled(volume, hole.float(), 0.7)

    def halves(read):
        rows = [
            {"fill": name, "change": float(read(torch.where(hole, value, volume)) - read(volume))}
            for name, value in fills.items()
        ]
        facts = dict.fromkeys(("network", "subject", "ventricle", "shape", "place", "border"), 0)
        return hole_study.halves(pd.DataFrame(rows).assign(**facts)).set_index("fill")

    dark = halves(lambda image: -image.sum())
    assert set(dark.index) == {"air", "fluid", "brain"}
    assert dark.loc["air", "darkness"] == pytest.approx(1.2 * 200, rel=1e-4)
    assert dark["either_way"].abs().max() < 0.01
    edges = halves(lambda image: sum(image.diff(dim=d).abs().sum() for d in (1, 2, 3)))
    faces = 2 * (5 * 5 + 5 * 8 + 5 * 8)
    assert edges.loc["fluid", "either_way"] == pytest.approx(0.5 * faces, rel=1e-4)
    assert edges["darkness"].abs().max() < 0.01


def test_runs_are_counted_by_the_group_that_is_called_wrong(hole_study):
    right = {"a": ((1, 1), (0, 1)), "b": ((0, 0), (1, 1)), "c": ((1, 0), (0, 1))}
    rows = [
        {"network": 0, "people": people, "folds": 0, "group": group, "correct": float(correct)}
        for people, groups in right.items()
        for group, both in zip(("control", "patient"), groups, strict=True)
        for correct in both
    ]
    test = {"action": "remove", "area": "map", "fraction": 0.05, "fill": "air"}
    (row,) = hole_study.runs(pd.DataFrame(rows).assign(**test)).to_dict("records")
    assert row == test | {
        "control min": 0.0,
        "control max": 1.0,
        "patient min": 0.5,
        "patient max": 1.0,
        "controls worse": 1,
        "patients worse": 1,
        "runs": 3,
    }


def test_the_hole_study_resumes_and_computes_nothing_twice(hole_study, tmp_path, monkeypatch):
    shape, done, written = grids.mni(8.0).shape, [], []
    # Dark is a patient to one; the other says control to all, and is not moved by anything.
    networks = {0: Weighted(torch.full(shape, -1.0), 3000.0), 1: Weighted(torch.zeros(shape), -1)}

    def watch(name):
        compute = hole_study.names[name]

        @functools.wraps(compute)
        def watched(*arguments):
            done.append(name)
            return compute(*arguments)

        monkeypatch.setitem(hole_study.names, name, watched)

    watch("holes")
    watch("masks")
    monkeypatch.setattr(models, "pretrained", lambda task, seed: networks[seed])
    monkeypatch.setattr(results, "write", lambda name, result: written.append((name, result)))
    monkeypatch.setattr(sys, "argv", ["study_holes.py", f"--parts={tmp_path}"])
    with pytest.warns(UserWarning, match="zero everywhere"):  # the maps of the second
        hole_study.main()
    assert done == 2 * ["holes", "masks", "masks"]
    (tmp_path / "0 holes.safetensors").unlink()
    hole_study.main()
    assert done[6:] == ["holes"]
    assert written[0] == written[1]

    name, result = written[0]
    assert name == "hole_study"
    json.dumps(result, allow_nan=False)
    halves = pd.DataFrame(result["halves"])
    unmoved = halves[halves["network"] == 1]
    assert len(unmoved) > 0
    assert (unmoved[["mean", "low", "high"]] == 0).all(axis=None)
    ours = halves[(halves["network"] == 0) & (halves["fill"] == "air")]
    ours = ours.groupby("measure")["mean"]
    assert ours.min()["darkness"] > 1
    assert ours.agg(lambda means: means.abs().max())["either_way"] < 0.01
    assert set(pd.DataFrame(result["holes"])["fill"]) >= {"none", "grown twin", "blurred"}
    masks = pd.DataFrame(result["masks"])
    whole = masks[(masks["network"] == 1) & (masks["action"] == "remove")]
    assert whole.groupby("group")["mean"].unique().to_dict() == {"control": [1], "patient": [0]}
    assert {row["runs"] for row in result["runs"]} == {4}  # 2 networks, 2 groups of people
