"""One page about a study: who, how well, what the maps say, every scan. It stands alone.

It reads what the other verbs have left in the output folder, computes nothing anew but means, and
puts what nobody should overlook on top.
"""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from helpers import attribution, viewers
from helpers.cohorts import participants
from helpers.cohorts.report import QUALITY
from helpers.study import findings, pages, records
from helpers.study.folders import Study
from helpers.study.preprocessing import PICTURE
from helpers.study.trusting.judging import FOUND

# Pictures of scans on the page; beyond it, a browser would wait.
MOST_PICTURES = 200
_OUTSIDE = 0.2
_METHODS = {method.replace("_", ""): method for method in attribution.METHODS}


@dataclass
class Found:
    """What the verbs have left in an output folder, as tables by what they are about.

    Attributes
    ----------
    quality : DataFrame, optional
        Of the preprocessing.
    trainings : dict of str to dict of str to DataFrame
        For each label: scores, predictions, confounds, calibration, learning, history.
    methods : dict of str to DataFrame
        For each method: a row a scan.
    trials : dict of str to dict
        For each planted effect: the summary of `trust`.
    simulations, features : DataFrame, optional
        A row a scan that was simulated; a row a feature picture.
    """

    quality: pd.DataFrame | None = None
    trainings: dict[str, dict[str, pd.DataFrame]] = field(default_factory=dict)
    methods: dict[str, pd.DataFrame] = field(default_factory=dict)
    trials: dict[str, dict] = field(default_factory=dict)
    simulations: pd.DataFrame | None = None
    features: pd.DataFrame | None = None


def report(study: Study) -> Path:
    """Write ``report.html``, one page with everything that the other verbs have found.

    What nobody should overlook comes first; then cohort, quality, scores, confounds, group maps,
    regions, planted effects, simulations, feature pictures, and every scan.

    Parameters
    ----------
    study : Study
        What is not in its output folder is left out.

    Returns
    -------
    Path
        Of the page. It needs no other file and asks nobody on the network for anything.

    Raises
    ------
    FileNotFoundError
        If there is nothing to report yet.
    """
    found = gather(study)
    if all(value is None or len(value) == 0 for value in vars(found).values()):
        raise FileNotFoundError(
            f"{study.output} holds nothing to report yet; run brain-cnns preprocess, train or "
            f"explain first"
        )
    called = [scan.participant_id for scan in study.scans]
    people = participants.read(study.folder, required=False, called=called)
    page = pages.Page(
        f"What does the network use? {study.folder.resolve().name}",
        f"{len(study.scans)} scans of {len({scan.participant_id for scan in study.scans})} people.",
    )
    for warning in warnings_of(found):
        page.warn(warning)
    _cohort(page, people)
    if found.quality is not None:
        _quality(page, found.quality)
    for label, tables in found.trainings.items():
        _training(page, label, tables)
    for method, table in found.methods.items():
        findings.maps(page, study, method, table)
    if found.trials:
        findings.trials(page, found.trials)
    if found.simulations is not None:
        findings.simulations(page, study, found.simulations)
    if found.features is not None:
        findings.features(page, study, found.features)
    _scans(page, study, found, people)
    path = study.output / "report.html"
    study.describe()
    pages.write(path, page)
    return path


def gather(study: Study) -> Found:
    """Read the tables that the verbs have left."""
    found, folder = Found(), study.output / "group"
    for path in sorted(folder.glob("desc-*.tsv")):
        name, _, kind = path.stem.removeprefix("desc-").rpartition("_")
        table = pd.read_csv(path, sep="\t", dtype={"participant_id": str})
        if name == "preproc" and kind == "scans":
            found.quality = table
        elif kind == "scans" and name == records.SIMULATED:
            found.simulations = table
        elif kind == "scans" and name in _METHODS:
            found.methods[_METHODS[name]] = table
        elif kind == "pictures" and name == "feature":
            found.features = table
        elif (study.output / "models" / name / "card.json").exists():
            found.trainings.setdefault(name, {})[kind] = table
    for path in sorted(folder.glob("desc-trust*_summary.json")):
        label = path.stem.removeprefix("desc-trust").removesuffix("_summary")
        if (trial := records.read(path, "it is left out")) is not None:
            found.trials[label] = trial
    return found


def warnings_of(found: Found) -> list[str]:
    """Return what nobody should overlook, in sentences."""
    said = []
    for what, table in (("preprocessed", found.quality), *_named(found.methods)):
        broken = 0 if table is None else int(table["problem"].notna().sum())
        if broken:
            said.append(f"{broken} of {len(table)} scans could not be {what}; they are left out.")
    for label, tables in found.trainings.items():
        said += _about_training(label, tables)
    for method, table in found.methods.items():
        outside = table["share_outside_brain"].mean()
        if outside > _OUTSIDE:
            said.append(
                f"{outside:.0%} of what the maps of {method} show lies outside the brain, where "
                "there is nothing to see."
            )
        if table["explained"].nunique() > 1:
            said.append(
                f"The maps of {method} explain each scan's predicted class, so they answer "
                f"different questions; for a group, explain all for one class (--target)."
            )
    for label, trial in found.trials.items():
        said += _about_trial(label, trial, set(found.methods))
    return said


def _about_trial(label: str, trial: dict, methods: set[str]) -> list[str]:
    """Say if methods whose maps are on the page did not find what was planted."""
    planted = f"trust-{label}.html: {trial['settings']['planted']}"
    if trial["refused"]:
        return [f"No method can be judged by a planted effect ({planted}): {trial['refused']}."]
    missed = [
        method
        for method, said in trial["verdicts"].items()
        if method in methods and said["verdict"] != FOUND
    ]
    if not missed:
        return []
    return [
        f"{' and '.join(missed)} did not find what was planted into these scans better than maps "
        f"that have never seen a network ({planted})."
    ]


def _named(methods: dict[str, pd.DataFrame]):
    return [(f"explained by {method}", table) for method, table in methods.items()]


def _about_training(label: str, tables: dict[str, pd.DataFrame]) -> list[str]:
    scores = tables["scores"].set_index("model")
    measure, chance = ("r", 0.0) if "r" in scores else ("auc", 0.5)
    network = scores.loc["network"]
    if not network[f"{measure}_low"] > chance:
        return [
            f"The network that was trained on {label} is not clearly better than chance "
            f"({_interval(network, measure)}): no map of it says anything about {label}."
        ]
    said = []
    others = scores.drop(index="network")[measure]
    if len(others) and others.max() >= network[measure]:
        said.append(
            f"{others.idxmax()} does as well as the network on {label} ({measure} "
            f"{others.max():.2f} and {network[measure]:.2f})."
        )
    for row in tables.get("confounds", pd.DataFrame()).to_dict("records"):
        if row["model"] == "network" and row["alone"] >= row[measure]:
            said.append(
                f"{row['confound']} alone predicts {label} as well as the network does "
                f"({measure} {row['alone']:.2f} and {row[measure]:.2f}): the maps may show it."
            )
    return said


def _interval(row: pd.Series, measure: str) -> str:
    name = {"auc": "AUC", "r": "r", "mae": "mean error", "balanced_accuracy": "accuracy"}[measure]
    low, high = row[f"{measure}_low"], row[f"{measure}_high"]
    return f"{name} {row[measure]:.2f}, 95 % interval {low:.2f} to {high:.2f}"


def _cohort(page: pages.Page, people: pd.DataFrame | None) -> None:
    if people is None:
        return
    page.section("Who")
    people, rows = participants.typed(people), []
    for name in people.columns.drop("participant_id"):
        values = people[name].dropna()
        if pd.api.types.is_numeric_dtype(values):
            summary = (
                f"{values.mean():.1f} (SD {values.std():.1f}), {values.min():g} to {values.max():g}"
            )
        elif values.nunique() <= 12:
            summary = ", ".join(
                f"{count} {value}" for value, count in values.value_counts().items()
            )
        else:
            summary = f"{values.nunique()} different values"
        missing = int(people[name].isna().sum())
        rows.append({"column": name, "people": summary, "missing": str(missing or "")})
    page.table(pd.DataFrame(rows), f"{len(people)} people of participants.tsv")


def _quality(page: pages.Page, quality: pd.DataFrame) -> None:
    page.section(
        "How well the scans lie on the template",
        "quality.html, beside this page, shows every scan with the template's outline. Here are "
        "the five that fit least.",
    )
    worst = quality.sort_values("template_correlation", na_position="first").head(5)
    page.table(worst[["scan", *QUALITY, "problem"]], "The least like the template", decimals=3)


def _training(page: pages.Page, label: str, tables: dict[str, pd.DataFrame]) -> None:
    page.section(
        f"How well {label} can be predicted",
        "Everybody is judged by a network that has not seen her, and the simple models answer on "
        "the same folds. In brackets, 95 % intervals over people.",
    )
    page.table(_scores(tables["scores"]), "Out of fold")
    if len(tables.get("confounds", [])):
        page.text(
            "What else goes with it? alone: how well the confound predicts it without any scan. "
            "followed: how closely the model's answer goes with the confound among people who are "
            "the same in the label. "
            + (
                "alike: the model's AUC between people who are alike in the confound."
                if "alike" in tables["confounds"]
                else "left: what the model still says when the confound is taken out."
            )
        )
        page.table(tables["confounds"], "Confounds")
    if "calibration" in tables:
        page.figure(_line(tables["calibration"], "said", "true", "Is it as sure as it is right?"))
    if "learning" in tables:
        measure = "r" if "r" in tables["learning"] else "auc"
        page.figure(_line(tables["learning"], "people", measure, "Would more people help?"))


def _scores(scores: pd.DataFrame) -> pd.DataFrame:
    measures = [name for name in ("balanced_accuracy", "auc", "mae", "bias", "r") if name in scores]
    shown = scores[["model", "subjects"]].copy()
    for name in measures:
        shown[name] = [
            f"{row[name]:.2f} ({row[f'{name}_low']:.2f} to {row[f'{name}_high']:.2f})"
            for row in scores.to_dict("records")
        ]
    return shown


def _line(table: pd.DataFrame, x: str, y: str, title: str) -> go.Figure:
    low, high = f"{y}_low", f"{y}_high"
    errors = None
    if low in table:
        up, down = table[high] - table[y], table[y] - table[low]
        errors = {"type": "data", "array": up, "arrayminus": down}
    figure = go.Figure(
        go.Scatter(x=table[x], y=table[y], mode="lines+markers", error_y=errors, showlegend=False)
    )
    if x == "said":
        diagonal = {"x": [0, 1], "y": [0, 1], "mode": "lines", "name": "perfect"}
        figure.add_scatter(**diagonal, line={"dash": "dot"}, showlegend=False)
    names = {"said": "probability that the network gives", "true": "share that is so"}
    figure.update_layout(
        title=title,
        height=360,
        xaxis_title=names.get(x, f"{x} to learn from"),
        yaxis_title=names.get(y, y.upper() if y == "auc" else y),
    )
    points = ", ".join(f"{a:.3g}: {b:.2f}" for a, b in zip(table[x], table[y], strict=True))
    return viewers.describe(figure, f"{title} {y} at {points}.")


def _scans(page: pages.Page, study: Study, found: Found, people: pd.DataFrame | None) -> None:
    page.section("Every scan")
    table = pd.DataFrame(
        {
            "scan": [scan.file for scan in study.scans],
            "participant_id": [scan.participant_id for scan in study.scans],
        }
    )
    for label, tables in found.trainings.items():
        said = tables["predictions"].drop_duplicates("participant_id")
        said = said.rename(columns={"true": label, "predicted": f"predicted {label}"})
        if "correct" in said:
            said["correct"] = said["correct"].map({True: "yes", False: "no"})
        table = table.merge(said, on="participant_id", how="left", suffixes=("", f" {label}"))
    for method, rows in found.methods.items():
        columns = ["scan", "explained", "explained_probability", "share_outside_brain", "warnings"]
        named = rows[columns].rename(
            columns={
                "explained": f"explained by {method}",
                "explained_probability": f"probability ({method})",
                "share_outside_brain": f"outside the brain ({method})",
                "warnings": f"warnings ({method})",
            }
        )
        table = table.merge(named, on="scan", how="left")
        if not found.trainings:  # the network came from elsewhere: this is all that it said
            predicted = table["scan"].map(rows.set_index("scan")["predicted"])
            table[f"predicted ({method})"] = predicted
            label = _what_was_predicted(predicted, people)
            if label is not None:
                true = table["participant_id"].map(people.set_index("participant_id")[label])
                right = (true == predicted).map({True: "yes", False: "no"})
                table[label] = true
                table[f"correct ({method})"] = right.where(true.notna() & predicted.notna(), "")
    page.table(table.drop(columns="participant_id"), f"{len(table)} scans")
    shown = 0
    for scan, row in zip(study.scans, table.to_dict("records"), strict=True):
        for label, method in _METHODS.items():
            picture = scan.derived(study.output, f"_desc-{label}_map.png")
            if method in found.methods and picture.exists() and shown < MOST_PICTURES:
                page.picture(picture, scan.file, f"{method}. {_verdict(row, found)}")
                shown += 1
        if not found.methods and shown < MOST_PICTURES:
            picture = scan.derived(study.output, PICTURE)
            if picture.exists():
                page.picture(picture, scan.file)
                shown += 1
    if shown == MOST_PICTURES:
        page.text(f"The first {MOST_PICTURES} pictures are shown; all lie beside the maps.")


def _what_was_predicted(predicted: pd.Series, people: pd.DataFrame | None) -> str | None:
    """Return the one column of the people whose values are those that a network says, if any."""
    said = set(predicted.dropna())
    if people is None or not said:
        return None
    columns = people.drop(columns="participant_id")
    fitting = [name for name in columns if said <= set(columns[name].dropna())]
    return fitting[0] if len(fitting) == 1 else None


def _verdict(row: dict, found: Found) -> str:
    """Say in words whether the networks were right about a scan."""
    said = []
    for label in found.trainings:
        true, predicted = row.get(label), row.get(f"predicted {label}")
        if pd.isna(true) or pd.isna(predicted):
            continue
        if isinstance(predicted, str):
            said.append(
                f"{label}: {true}, predicted {predicted}{'' if true == predicted else ' (wrong)'}."
            )
        else:
            said.append(f"{label}: {true:.1f}, predicted {predicted:.1f}.")
    return " ".join(said)
