"""What the chapters say in numbers about committed results is what the files hold.

Numbers that a page computes are in its outputs. These are the others: sentences about
``helpers/results``. Whoever makes a result again learns here which sentences it carries no longer.
"""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers import activation_maximization, results
from helpers.activation_maximization import images, objectives, regularizers, transforms
from helpers.cohorts.shapes import SHAPES

BOOK = Path(__file__).parents[1] / "book"


def prose(chapter: str) -> str:
    """Return the text of a chapter without its code."""
    (path,) = BOOK.glob(f"{chapter}_*.ipynb")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def says(chapter: str, *sentences: str) -> None:
    text = prose(chapter)
    for sentence in sentences:
        assert sentence in text, f"chapter {chapter} does not say: {sentence}"


def about(value: float, digits: int) -> str:
    return f"{value:.{digits}f}"


@pytest.fixture(scope="module")
def lesion() -> pd.DataFrame:
    table = pd.DataFrame(results.read("feature_lesion")["rows"])
    r = table[[f"r_{shape}" for shape in SHAPES]]
    ranked = np.sort(r.to_numpy(), axis=1)
    table["lead"] = ranked[:, -1] - ranked[:, -2]
    return table.set_index(["network", "class"]).sort_index()


def test_leads_of_chapter_9(lesion):
    trained, untrained = lesion.loc["trained"], lesion.loc["untrained"]
    highest = untrained["lead"].max()
    clear = (trained["lead"] > highest).groupby("class").sum()
    assert clear.to_dict() == {"ball": 0, "cube": 0, "rod": 3, "shell": 5}
    low, high = trained["lead"].groupby("class").min(), trained["lead"].groupby("class").max()
    says(
        "09",
        f"with leads of up to {about(highest, 3)}",
        "each of the five leads by more than any untrained picture",
        "**Rods** are clear in three of five",
        f"**Balls** lead by {about(low['ball'], 3)} to {about(high['ball'], 3)}",
        "**Cubes** lead by two to twenty-two *thousandths*",
    )
    unclear = trained.loc["rod", "lead"]
    assert {about(lead, 3) for lead in unclear[unclear <= highest]} == {"0.083"}
    assert (about(1000 * low["cube"], 0), about(1000 * high["cube"], 0)) == ("2", "22")
    assert (untrained["r_cube"] > untrained["r_ball"]).all()
    balls = trained.loc["ball"]
    assert (balls["r_ball"] > balls["r_cube"]).all()
    others = balls[["r_cube", "r_rod", "r_shell"]]
    assert (others.idxmax(axis=1) == "r_cube").all()


def test_names_people_and_margins_of_chapter_9(lesion):
    names = lesion.loc["untrained", "shown"].value_counts()
    says("09", f"says rod {names['rod']} times, cube {names['cube']} times, ball and shell never")
    assert set(names.index) == {"rod", "cube"}
    trained = lesion.loc["trained"]
    assert (trained["nearest_subject"] == "healthy").all()
    says("09", "For all twenty pictures it is *healthy*")
    assert (trained["margin"] < trained["highest_margin_of_subjects"]).all()
    assert trained.index[trained["margin"] < 0].tolist() == ["ball", "cube"]
    says("09", "Two of the twenty even fall below zero as they lie (a ball and a cube)")


def test_the_words_of_chapter_9_exist():
    homes = (objectives, images, regularizers, transforms, activation_maximization)
    (table,) = re.findall(r"\| vocabulary \|.*?\n\n", prose("09"), re.DOTALL)
    for word in re.findall(r"`(\w+)`", table):
        assert any(hasattr(home, word) for home in homes), word


def test_recipes_of_chapter_10():
    record = results.read("feature_recipes")
    means = pd.DataFrame(record["means"]).set_index("recipe")
    rows = pd.DataFrame(record["rows"])
    right = rows.groupby("recipe")["right"].sum()
    assert right["together"] == 8
    assert right["moves"] == 6
    assert right["Fourier"] == 2
    says(
        "10",
        f"lifts *r* from {about(means.r['nothing'], 2)} to {about(means.r['gradient blur'], 2)}",
        f"eight of eight and the highest *r*, {about(means.r['together'], 2)}",
    )
    assert means["r"].idxmax() == "together"
    assert means["objective"].idxmax() == "Fourier"
    moved = rows.pivot_table(index="recipe", columns="class", values="moved_margin", aggfunc="min")
    assert (moved["rod"] > 0).all()
    assert set(moved.index[moved["ball"] > 0]) == {"moves", "together"}
    assert moved.index[(moved > 0).all(axis=1)].tolist() == ["moves", "together"]
    cost = means["seconds"]
    shares = cost["moves"] / cost["nothing"], cost["together"] / cost["together, no moves"]
    says("10", f"{about(min(shares), 1)} to {about(max(shares), 1)} times as long")
    rods = record["sweeps"]["total variation"]["right_r"]
    says("10", f"stays between {about(min(rods), 2)} and {about(max(rods), 2)}")


@pytest.fixture(scope="module")
def simulators() -> dict:
    return results.read("simulator_scores")


def test_group_maps_of_chapter_12(simulators):
    groups = pd.DataFrame(simulators["group_means"])
    signed = groups[groups["measure"] == "signed correlation, both"]
    shipped = signed[signed["simulator"] == "shipped"]
    atrophy = shipped.loc[shipped["task"] == "atrophy", "mean"]
    says(
        "12",
        f"correlation of {about(shipped['mean'].min(), 2)} to {about(shipped['mean'].max(), 2)}",
        f"({about(atrophy.min(), 2)} to {about(atrophy.max(), 2)})",
    )
    first = signed[(signed["task"] == "atrophy") & (signed["seed"] == 0)]
    r = first.set_index("simulator")["mean"]
    says(
        "12",
        f"falls from {about(r['shipped'], 2)} to {about(r['all of that at once'], 2)}",
        f"It has {about(r['the common start alone'], 2)} already",
        f"not hardened ({about(r['classifiers as they came'], 2)})",
        f"nor blur ({about(r['no smoothness, hardly a blur'], 2)})",
        "two of them, cycle and velocity, could be left out alone at no loss",
    )
    better = r[r > r["shipped"]].index
    assert set(better) == {"no cycle", "two networks, no condition", "direct displacement"}
    table = pd.DataFrame(simulators["simulators"])
    errors = table[(table["task"] == "atrophy") & (table["measure"] == "cycle_error")]
    errors = errors.set_index("simulator")["mean"]
    assert 5.5 < errors["all of that at once"] / errors["shipped"] < 6
    says("12", "the error of the round trip is nearly six times as large")
    assert (table.loc[table["measure"].isin(["moved", "judge_moved"]), "mean"] == 1).all()


def test_heat_maps_beside_simulators_of_chapter_12(simulators):
    scores = pd.DataFrame(simulators["maps"]).pivot(
        index="method", columns=["measure", "task"], values="mean"
    )
    guess = scores["prevalence"].iloc[0]
    says(
        "12",
        f"of {about(guess['atrophy'], 2)} in *atrophy* and {about(guess['alcohol'], 2)} in *alcoho",
    )
    heat = scores[~scores.index.str.startswith("(")]
    assert len(heat) == 12
    simulator, blurred = scores.loc["(simulator)"], scores.loc["(gradient, blurred)"]
    for measure in ("average_precision", "magnitude_correlation"):
        assert (heat[measure] < simulator[measure]).all(axis=None)
        assert blurred[measure]["atrophy"] > simulator[measure]["atrophy"]
        assert blurred[measure]["alcohol"] < simulator[measure]["alcohol"]
    assert blurred["voxel_auc"]["alcohol"] == pytest.approx(
        simulator["voxel_auc"]["alcohol"], abs=0.01
    )


def test_warps_of_chapter_13():
    record = results.read("feature_sex")
    rows = pd.DataFrame(record["rows"])
    warps = rows[(rows["space"] == "warp") & (rows["task"] == "sex")]
    assert (warps["right_signs"] == 8).all()
    assert warps["correlation"].between(0.45, 0.55).all()
    says("13", "All eight signs are right, and the correlation is about one half")
    highest = record["highest_margin_of_subjects"]
    says("13", f"the most convincing of 100 people reaches {about(highest, 0)}")
    assert (warps["margin_after"] > highest).all()
    smooth = rows.set_index("space").loc["voxels, smooth"]
    assert smooth["right_signs"] == 1
    says("13", f"at a correlation of ${about(smooth['correlation'], 2)}$")
