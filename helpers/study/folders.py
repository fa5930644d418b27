"""A study: a folder of scans, and one folder for everything that is found about them.

The second is laid out as BIDS derivatives are, so that other programs find their way in it: what is
about one scan lies where the scan lies in its own folder, what is about all of them in ``group``.

References
----------
BIDS 1.10, Derivatives: https://bids-specification.readthedocs.io/en/stable/derivatives/
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from urllib.parse import quote

import filelock

from helpers import runtime
from helpers.cohorts.finding import find_scans
from helpers.cohorts.scans import Scan
from helpers.errors import CannotWriteError

GENERATOR = "brain-cnns"
DESCRIPTION = "dataset_description.json"
_MASKS = "group/desc-preproc_masks.json"
# BIDS has no words yet for maps, their statistics and pages about them.
_BIDSIGNORE = "*_map.*\n*_xfm.json\n*_T1w.png\n*_problem.json\n*.html\ngroup\nmodels\n"


class Study:
    """Scans and the folder of their results.

    Parameters
    ----------
    folder : str or Path
        A BIDS folder, or one with NIfTI files in it.
    output : str or Path
        Where results go; made when there are some.
    masks : str, optional
        Where each scan's brain mask is, see `helpers.cohorts.from_bids`. In a folder of NIfTI
        files, ``{participant_id}`` is the file's name without its ending. Default: as these scans
        were preprocessed here before; else the template's mask cuts the brains out.
    segmentations : str, optional
        Where each person's own regions are, such as FreeSurfer's ``aparc+aseg`` in NIfTI.
    participants : sequence of str, optional
        Only these people, such as ``"01"`` or ``"sub-01"``; default everybody.
    preprocessed : str or Path, optional
        Where the preprocessed scans are, or will be; default ``output``. With that of another
        study, a second network needs no second preprocessing.

    Attributes
    ----------
    scans : list of Scan

    Raises
    ------
    FileNotFoundError
        If there is no folder or no scan.
    ValueError
        If results would lie among the scans or overwrite each other, the output is that of another
        program, or a participant is unknown.

    Examples
    --------
    >>> from helpers import cohorts, study
    >>> found = study.Study(cohorts.real_study(), "results", participants=["04"])
    >>> [scan.file for scan in found.scans]
    ['sub-04/anat/sub-04_T1w.nii.gz']
    """

    def __init__(
        self,
        folder: str | Path,
        output: str | Path,
        *,
        masks: str | None = None,
        segmentations: str | None = None,
        participants: Sequence[str] = (),
        preprocessed: str | Path | None = None,
    ):
        self.folder, self.output = Path(folder), Path(output)
        self.preprocessed = self.output if preprocessed is None else Path(preprocessed)
        self.masks = self._known_masks() if masks is None else masks
        scans = find_scans(folder, masks=self.masks, segmentations=segmentations)
        self.scans = _of_people(scans, participants, self.folder)
        for place in (self.output, self.preprocessed):
            if place.resolve() == self.folder.resolve():
                raise ValueError(f"files in the folder of the scans would pass for scans: {place}")
            _check_ours(place / DESCRIPTION)

    def describe(self) -> None:
        """Write what a BIDS folder says of itself; call it before anything else is written."""
        said = {
            "Name": f"{GENERATOR}: {self.folder.resolve().name}",
            "BIDSVersion": "1.10.0",
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": GENERATOR, "Version": version("brain-cnn-helpers")}],
            "DatasetLinks": {"raw": _link(self.folder.resolve(), self.output.resolve())},
        }
        runtime.write_json(self.output / DESCRIPTION, said)
        with runtime.replacing(self.output / ".bidsignore") as unfinished:
            unfinished.write_text(_BIDSIGNORE)
        if self.masks != self._known_masks():
            runtime.write_json(self.preprocessed / _MASKS, self._cut_out_by(self.masks))

    def _known_masks(self) -> str | None:
        """Return which masks these scans were preprocessed with: others would cut them anew."""
        try:
            said = json.loads((self.preprocessed / _MASKS).read_text())
            masks = said["Masks"]
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
            return None
        return masks if said == self._cut_out_by(masks) else None

    def _cut_out_by(self, masks: str | None) -> dict[str, str | None]:
        return {
            "Masks": masks,
            "MasksOf": _link(self.folder.resolve(), self.preprocessed.resolve()),
        }

    def group(self, name: str) -> Path:
        """Return where a result about all scans belongs."""
        return self.output / "group" / name

    @contextmanager
    def lock(self, what: Scan | str, *, wait: bool = True) -> Iterator[bool]:
        """Keep other programs from a part of this output; yield whether it is ours now.

        Parameters
        ----------
        what : Scan or str
            A scan, or the name of what is made of all of them.
        wait : bool
            Wait until others are done with it; else yield False if there are any.
        """
        place = self.output / ".locks"
        file = place / f"{what}.lock" if isinstance(what, str) else what.derived(place, ".lock")
        lock = filelock.FileLock(file)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=wait)
        except filelock.Timeout:
            yield False
            return
        except OSError as error:
            raise CannotWriteError(f"cannot write {file}: {error.strerror or error}") from error
        try:
            yield True
        finally:
            lock.release()

    def in_turn(self, scans: Sequence[Scan]) -> Iterator[Scan]:
        """Yield each scan while it is locked: first those on which no other program works.

        So two programs that were started on the same output share the work.
        """
        taken = []
        for scan in scans:
            with self.lock(scan, wait=False) as ours:
                if ours:
                    yield scan
                else:
                    taken.append(scan)
        for scan in taken:
            with self.lock(scan):
                yield scan


def _link(folder: Path, base: Path) -> str:
    """Return where a folder is as seen from another: results are passed on, names of users not."""
    try:
        return quote(Path(os.path.relpath(folder, base)).as_posix())
    except ValueError:  # on Windows, another drive
        return folder.as_uri()


def _of_people(scans: list[Scan], participants: Sequence[str], folder: Path) -> list[Scan]:
    wanted = {f"sub-{name.removeprefix('sub-')}": name for name in participants}
    if not wanted:
        return scans
    # In a folder of NIfTI files, a person is called as the file is.
    chosen = [scan for scan in scans if f"sub-{scan.participant_id.removeprefix('sub-')}" in wanted]
    found = {f"sub-{scan.participant_id.removeprefix('sub-')}" for scan in chosen}
    missing = sorted(name for label, name in wanted.items() if label not in found)
    if missing:
        raise ValueError(f"nobody called {', '.join(missing)} has a scan in {folder}")
    return chosen


def _check_ours(description: Path) -> None:
    """Raise a ValueError if a folder holds what another program has found, or raw scans."""
    try:
        said = json.loads(description.read_text())
        names = [generator.get("Name") for generator in said.get("GeneratedBy", [])]
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError, AttributeError):
        names = ["damaged"]
    if GENERATOR not in names:
        raise ValueError(
            f"{description} is not of {GENERATOR} and would be lost; name another output folder"
        )
