"""Score explanations on both truths, where the effect lies and what the network makes of it.

    python data_scripts/benchmark.py --method my_file.py:my_map       # yours
    python data_scripts/benchmark.py                                  # all that ship, for hours
    python data_scripts/benchmark.py --tasks mixed_real --ds002748 FOLDER --ixi FOLDER

A method is a function ``(model, volumes, target) -> maps``. It gets a network in evaluation mode,
volumes of shape (subject, 1, x, y, z) and the true class of each subject, all on the CPU, and
returns one finite map a subject, in the same shape. The logits it meets are by how much each class
leads the mean of all, so a map of the target is a map of the decision.

Its maps are smoothed by the width that serves them best on other people and other networks, as are
those of all others. What was scored joins the rows in ``leaderboard.json``. A method that fails,
changes the network or returns no map is named, here and there, and the program goes on. The same
command goes on where it was interrupted. A method of yours is scored anew when its file changes;
when a file that it imports changes, delete the folder ``--parts``.
"""

import argparse
import functools
import importlib.util
import json
import sys
import time
import warnings
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from entrants import Heads, Method, entrants
from heads import CHOICE_PEOPLE, CHOICE_SEED, REAL, SCORED_PEOPLE, RealHeads, SimulatedHeads
from torch import Tensor, nn

from helpers import cohorts, evaluation, keyed, models, results
from helpers.cohorts import Cohort
from helpers.cohorts.parts import MOST_PARTS
from helpers.evaluation import two_truths

NETWORKS = {  # task: seeds of the networks that ship
    "lesion": (0, 1, 2),
    "atrophy": (0, 1, 2),
    "alcohol": (0, 1, 2),
    "mixed": (0, 1, 2),
    "mixed_real": (0, 1, 2),
    "sex": (0, 1, 2),
}
UNTRAINED_SEED, PERMUTATIONS = 7, 20
SHIPPED = results.FOLDER / "leaderboard.json"


def main() -> None:
    """Score method by method and task by task, and write what was found after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", metavar="FILE:FUNCTION", help="default: all that ship")
    parser.add_argument(
        "--tasks", nargs="+", choices=NETWORKS, help="default: all; in real heads if they are named"
    )
    parser.add_argument("--ds002748", type=Path, help="folder of real heads, from OpenNeuro")
    parser.add_argument("--ixi", type=Path, help="real heads learned from; downloaded if left out")
    parser.add_argument(
        "--parts", type=Path, default=Path("runs/benchmark"), help="folder of what is finished"
    )
    parser.add_argument(
        "--folder", type=Path, default=SHIPPED.parent, help="where leaderboard.json is, or will be"
    )
    arguments = parser.parse_args()
    yours = arguments.method and load_method(arguments.method)
    real = None if arguments.ds002748 is None else RealHeads(arguments.ixi, arguments.ds002748)
    board = Board(arguments.folder, begin_with_ours=yours is not None)
    for name in arguments.tasks or [n for n in NETWORKS if real or not n.endswith(REAL)]:
        heads = real if name.endswith(REAL) else SimulatedHeads()
        if heads is None:
            raise SystemExit(f"{name} plants into real heads; say where they are with --ds002748")
        entered = entrants(name, heads)
        if yours and yours.name in entered:
            raise SystemExit(f"{yours.name} is a method of the course; give yours another name")
        if yours:
            entered = {yours.name: ("yours", yours)}
        task = Task(name, heads, arguments.parts)
        board.enter(task)
        for method, (kind, function) in entered.items():
            rows = task.rows(method, kind, function)
            board.add(task, method, rows)
            for row in rows:
                print(f"{name} {method}: {said(row)}", flush=True)
    print(f"the rows are in {board.path}")
    if yours and any("problem" in row for row in board.rows(yours.name)):
        raise SystemExit(1)


@dataclass(frozen=True)
class Yours:
    """A method from a file: anything that can be called.

    It counts with the bytes of the file, so that it is scored anew when anything there changes.
    """

    name: str
    function: Method
    source: bytes

    def __call__(self, model: nn.Module, volumes: Tensor, target: Tensor) -> Tensor:
        """Return its maps."""
        return self.function(model, volumes, target)


def load_method(path: str) -> Yours:
    """Return the function that ``my_file.py:my_map`` names."""
    file, _, name = path.rpartition(":")
    if not Path(file).is_file():
        raise SystemExit(f"expected a file and a function, my_file.py:my_map, got {path!r}")
    sys.path.insert(0, str(Path(file).resolve().parent))  # for what it imports
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    if not callable(getattr(module, name, None)):
        raise SystemExit(f"{file} has no function {name!r}")
    return Yours(name, getattr(module, name), Path(file).read_bytes())


def said(row: dict) -> str:
    """Return a row of the leaderboard in one line."""
    if "problem" in row:
        return row["problem"]
    names = {"average_precision": "planted", "within_pearson": "within", "across_pearson": "across"}
    means = {names[k]: v[0] for k, v in row["measures"].items() if k in names}
    return ", ".join([row["form"], *(f"{name} {mean:.2f}" for name, mean in means.items())])


class Refused(Exception):
    """Why a method has no row, in one sentence."""


class Task:
    """The people, the networks and both truths of one task; each is computed once.

    Parameters
    ----------
    name : str
        See `helpers.cohorts.simulate`; with ``_real`` behind it in real heads.
    heads : SimulatedHeads or RealHeads
    parts : path
        Folder of what has been computed.
    """

    def __init__(self, name: str, heads: Heads, parts: Path):
        self.name, self.heads, self.parts = name, heads, parts
        self.networks = {seed: models.pretrained(name, seed=seed) for seed in NETWORKS[name]}
        self.card = next(iter(self.networks.values())).card
        self.untrained = models.build(
            self.card["network"],
            len(self.card["classes"]),
            tuple(self.card["shape"]),
            seed=UNTRAINED_SEED,
        ).eval()
        self.scored, self.choice = heads.scored(name), heads.choice(name)

    @functools.cached_property
    def facts(self) -> dict:
        """Return what two rows must share to be compared."""
        networks = {}
        for seed, network in self.networks.items():
            logits = models.predict(network, self.scored.volumes)
            networks[str(seed)] = {
                "sha256": keyed.fingerprint(network),
                "misclassified": int((logits.argmax(1) != self.scored.labels).sum()),
            }
        return {
            "network": self.card["network"],
            "networks": networks,
            "people": {
                "scored": [self.heads.scored_seed, SCORED_PEOPLE],
                "choice": [CHOICE_SEED, CHOICE_PEOPLE],
            },
        }

    @functools.cached_property
    def people_sha256(self) -> str:
        """Return what tells, beside seed and number, whether people are the same to the bit."""
        return keyed.fingerprint(self.scored.volumes)

    @functools.cached_property
    def worth(self) -> dict[tuple[int, str], pd.DataFrame]:
        """What each part is worth to each network, by its seed and by whose parts they are."""
        found = {}
        for which, cohort in (("scored", self.scored), ("choice", self.choice)):
            most = max(len(cohorts.planted_parts(cohort, i)) for i in range(len(cohort)))
            sampled = PERMUTATIONS if most > MOST_PARTS else None
            path = self.parts / f"{self.name} {which} reliance.safetensors"
            table = results.part(path, reliance, self.networks, cohort, sampled)["table"]
            found |= {(seed, which): of_one for seed, of_one in table.groupby("network")}
        return found

    def rows(self, method: str, kind: str, function: Method) -> list[dict]:
        """Return one row a form: means and intervals of one method's scores on this task."""
        row = {"task": self.name, "method": method, "kind": kind}
        computed = functools.partial(self._computed, method, function)
        first, untrained = next(iter(self.networks)), None
        try:
            if kind == "yours":  # meets two people before anything long is computed
                self._try_out(function)
            swept = {
                seed: computed(f"choice {seed}", sweep, network, self.choice, seed)
                for seed, network in self.networks.items()
            }
            tables = {seed: part["table"] for seed, part in swept.items()}
            widths = {seed: chosen_widths(tables, seed) for seed in self.networks}
            scored = {
                seed: computed(f"{seed}", score, network, self.scored, seed, widths[seed])
                for seed, network in self.networks.items()
            }
            if kind in ("attribution", "yours"):  # the others see no network
                untrained = computed(
                    "untrained", score, self.untrained, self.scored, first, widths[first]
                )
        except Refused as problem:
            return [{**row, "problem": str(problem)}]
        parts = [*swept.values(), *scored.values(), *([untrained] if untrained else [])]
        minutes = round(sum(part["seconds"] for part in parts) / 60, 1)
        shared = {"people_sha256": self.people_sha256, "minutes": minutes}
        rows = []
        for form in two_truths.FORMS:
            found = two_truths.summarise(scored, self._scored_worth(self.networks), form)
            if untrained is not None:
                means = two_truths.summarise({first: untrained}, self._scored_worth([first]), form)
                found["untrained"] = {k: value[0] for k, value in means["measures"].items()}
            chosen = {seed: widths[seed][form] for seed in self.networks}
            rows.append({**row, "form": form, **found, "widths": chosen, **shared})
        return rows

    def _try_out(self, function: Method) -> None:
        network = next(iter(self.networks.values()))
        maps_of(function, models.centred(network, len(self.choice.classes)), self.choice[:2])

    def _scored_worth(self, seeds) -> dict[int, pd.DataFrame]:
        return {seed: self.worth[seed, "scored"] for seed in seeds}

    def _computed(self, method, function, which, compute, network, cohort, seed, *widths) -> dict:
        """Return what was computed of one network, from the folder if it is there."""
        worth = self.worth[seed, "choice" if cohort is self.choice else "scored"]
        return results.part(
            self.parts / f"{self.name} {method} {which}.safetensors",
            compute,
            function,
            models.centred(network, len(cohort.classes)),
            cohort,
            worth,
            *widths,
        )


def reliance(networks: Mapping, cohort: Cohort, permutations: int | None) -> dict:
    """Return the networks' own truth."""
    return {"table": evaluation.reliance(networks, cohort, permutations=permutations)}


def sweep(function: Method, network, cohort: Cohort, worth) -> dict:
    """Return how well each form and width serves a method."""
    maps, seconds = maps_of(function, network, cohort)
    return {"table": two_truths.sweep(maps, cohort, worth), "seconds": seconds}


def score(function: Method, network, cohort: Cohort, worth, widths) -> dict:
    """Return the scores of a method and a network on both truths."""
    maps, seconds = maps_of(function, network, cohort)
    people, mass = zip(
        *(
            two_truths.score(maps, cohort, worth, form=form, widths=widths[form])
            for form in two_truths.FORMS
        ),
        strict=True,
    )
    names = list(two_truths.FORMS)
    return {
        "people": pd.concat(people, keys=names, names=["form"]).reset_index("form"),
        "mass": pd.concat(mass, keys=names, names=["form"]).reset_index("form"),
        "seconds": seconds,
    }


def maps_of(function: Method, network: nn.Module, cohort: Cohort) -> tuple[Tensor, float]:
    """Return the maps of a method and the seconds it took, or refuse them in one sentence.

    The method gets a copy of the network, so that one that changes it spoils nothing for others.
    """
    copy, volumes = deepcopy(network), cohort.volumes.clone()
    before, started = keyed.fingerprint(copy), time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            maps = function(copy, volumes, cohort.labels.clone())
    except Exception as error:  # whatever it is, the other methods go on
        raise Refused(f"{type(error).__name__}: {error}") from error
    seconds = time.perf_counter() - started
    if not isinstance(maps, Tensor):
        raise Refused(f"expected a tensor of maps, got {type(maps).__name__}")
    if maps.shape != volumes.shape:
        raise Refused(f"expected maps of shape {tuple(volumes.shape)}, got {tuple(maps.shape)}")
    if not maps.isfinite().all():
        raise Refused(f"expected finite maps, {int((~maps.isfinite()).sum())} voxels are not")
    if keyed.fingerprint(copy) != before:
        raise Refused("the method has changed the network")
    return maps.detach().float().cpu(), seconds


def chosen_widths(swept: Mapping[int, pd.DataFrame], seed: int) -> dict[str, dict[str, int]]:
    """Return, by form and truth, the width that served best on the networks of other seeds."""
    others = [table for other, table in swept.items() if other != seed] or list(swept.values())
    mean = pd.concat(others).groupby(["form", "width"])[["planted", "reliance"]].mean()
    return {
        form: {truth: int(mean.loc[form, truth].idxmax()) for truth in mean.columns}
        for form in two_truths.FORMS
    }


class Board:
    """The file ``leaderboard.json``, written after each method.

    Parameters
    ----------
    folder : path
        Where it is; if it is not there, it begins without rows, or with those that ship.
    """

    def __init__(self, folder: Path, *, begin_with_ours: bool):
        self.path = folder / SHIPPED.name
        beginning = SHIPPED if begin_with_ours and not self.path.exists() else self.path
        self.content: dict = {"tasks": {}, "rows": []}
        if beginning.exists():
            self.content = json.loads(beginning.read_text())

    def enter(self, task: Task) -> None:
        """Note what two rows of a task must share; refuse a task of other networks or people."""
        known = self.content["tasks"].setdefault(task.name, task.facts)
        if known != task.facts:
            raise SystemExit(
                f"the rows of {task.name} in {self.path} were made with other networks or people, "
                f"so nothing can be compared with them; begin a new leaderboard with --folder"
            )

    def add(self, task: Task, method: str, rows: list[dict]) -> None:
        """Put a method's rows of one task in the place of older ones."""
        others = [
            row
            for row in self.content["rows"]
            if (row["task"], row["method"]) != (task.name, method)
        ]
        self.content["rows"] = others + rows
        results.write(
            "leaderboard",
            {
                "what": "Maps of held-out simulated people, against where the effect was planted "
                "and against what each planted part is worth to the network.",
                "command": "python data_scripts/benchmark.py",
                "tasks": self.content["tasks"],
                "rows": self.content["rows"],
            },
            folder=self.path.parent,
        )

    def rows(self, method: str) -> list[dict]:
        """Return the rows of a method, on all tasks."""
        return [row for row in self.content["rows"] if row["method"] == method]


if __name__ == "__main__":
    main()
