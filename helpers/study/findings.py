"""What maps, planted effects, simulations and feature pictures say: sections of the report."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from helpers import anatomy, evaluation, viewers
from helpers.errors import NotRegisteredError
from helpers.grids import Grid
from helpers.study import records
from helpers.study.folders import Study
from helpers.study.grouping import maps_of_people
from helpers.study.pages import Page

_TOP_REGIONS = 12


def maps(page: Page, study: Study, method: str, table: pd.DataFrame) -> None:
    """Add the mean map of a method, its regions, and where it is beyond chance."""
    page.section(f"What the maps of {method} say together")
    try:
        _, found, grid = maps_of_people(study, method)
    except FileNotFoundError:
        page.text("There is no map.")
        return
    except NotRegisteredError as error:
        page.text(f"No mean map: {error}.")
        return
    _mean(page, found, grid, method, "mean map")
    means = _of_group(study, method, "means")
    if means:
        regions = pd.read_csv(min(means.items())[1], sep="\t").head(_TOP_REGIONS)
        caption = "Regions with the strongest mean, with 95 % intervals over people"
    else:
        each = evaluation.by_region(found, grid)
        regions = each.sort_values("mean", key=abs, ascending=False).head(_TOP_REGIONS)
        caption = "Tissues; name an atlas with `brain-cnns group --atlas`"
    page.table(_short(regions), caption)
    for contrast, path in _of_group(study, method, "peaks").items():
        peaks = pd.read_csv(path, sep="\t")
        how = path.with_name(path.name.replace("_peaks.tsv", "_group.json"))
        about = _in_words(contrast, records.read(how, "ignored") or {})
        if len(peaks):
            page.table(peaks, f"Beyond chance, {about} (corrected over the whole brain)")
        else:
            page.text(f"For {about}, nothing is beyond chance in the whole brain.")


def _of_group(study: Study, method: str, what: str) -> dict[str, Path]:
    """Return the tables that `group` has written about a method, by contrast; '' is against 0."""
    found = {}
    for path in sorted((study.output / "group").glob(f"*_desc-*_{what}.tsv")):
        # A contrast begins with a capital: gradcamSex is one of grad_cam, gradcamplusplus is not.
        described = path.stem.partition("_desc-")[2].removesuffix(f"_{what}")
        contrast = described.removeprefix(method.replace("_", ""))
        if contrast != described and not contrast[:1].islower():
            found[contrast] = path
    return found


def _in_words(contrast: str, how: Mapping) -> str:
    """Say what was compared, by what `group` has noted."""
    about = f"the contrast {contrast}" if contrast else "the mean against zero"
    if contrast and how.get("classes"):
        about = f"{how['label']}, {how['classes'][1]} against {how['classes'][0]}"
    if how.get("covariates"):
        about += f", apart from {' and '.join(how['covariates'])}"
    return about


def _short(table: pd.DataFrame) -> pd.DataFrame:
    """Write small numbers so that they can be read."""
    small = [name for name in ("mean", "low", "high", "sd") if name in table]
    return table.assign(**{name: [f"{value:.3g}" for value in table[name]] for name in small})


def trials(page: Page, found: Mapping[str, Mapping]) -> None:
    """Add what methods made of effects that were planted into these scans."""
    page.section(
        "Do maps find what was planted here?",
        "Known effects were planted into these scans, and methods were asked for them, beside maps "
        "that have never seen a network. Each effect has a page of its own beside this one.",
    )
    rows = []
    for label, trial in found.items():
        page.text(f"{label}: {trial['settings']['planted']}. See trust-{label}.html.")
        rows += [
            {
                "effect": label,
                "method": method,
                "verdict": said["verdict"],
                "because": said["because"],
            }
            for method, said in trial["verdicts"].items()
        ]
    page.table(pd.DataFrame(rows), "Each of one network and one kind of effect")


def simulations(page: Page, study: Study, table: pd.DataFrame) -> None:
    """Add what deformations the network asks for, all together and scan by scan."""
    good = table[table["problem"].isna()]
    changed = int((good["predicted"] != good["predicted_after"]).sum())
    page.section(
        "Which deformations does the network ask for?",
        f"{len(good)} brains were deformed until the network saw a typical person of another "
        f"class; it changed its mind about {changed}. That alone proves no anatomy, and nothing "
        f"here says how ill anybody is.",
    )
    for target, those in good.groupby("target", sort=True):
        scans = [scan for scan in study.scans if scan.file in set(those["scan"])]
        _, found, grid = maps_of_people(study, records.SIMULATED, scans=scans)
        _mean(page, found, grid, f"from the scan to {target}", "log expansion")
    columns = ["scan", "predicted", "target", "target_probability", "target_probability_after"]
    columns += ["strongest", "largest_displacement_mm", "warnings", "problem"]
    page.table(table[columns], "Above 0, tissue grew on the way to the target")


def features(page: Page, study: Study, table: pd.DataFrame) -> None:
    """Add pictures of what the network responds to, each beside an untrained copy's."""
    page.section(
        "What does the network respond to?",
        "Above, the trained network's picture; below, that of a copy that has learned nothing. "
        "What both show comes from the architecture and the recipe. The picture says nothing about "
        "how people differ.",
    )
    shown = table[table["network"] == "trained"]
    for row in shown.to_dict("records"):
        picture = study.group(row["file"].replace("feature.nii.gz", "feature.png"))
        page.picture(picture, row["picture"], row["space"])
    columns = ["picture", "space", "network", "objective_template", "objective", "strongest"]
    page.table(table[[*columns, "fine_share"]], "What each network says of its own picture")


def _mean(
    page: Page, maps: Float[Tensor, "person 1 x y z"], grid: Grid, title: str, label: str
) -> None:
    page.figure(
        viewers.slices(
            anatomy.template(grid).t1,
            maps.mean(0),
            grid=grid,
            title=f"{title}, mean of {len(maps)}",
            overlay_label=label,
        )
    )
