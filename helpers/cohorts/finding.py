"""Find the scans of a folder, with the masks and segmentations that lie beside them.

References
----------
BIDS 1.10, Modality agnostic files: https://bids-specification.readthedocs.io/en/stable/
"""

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from helpers.cohorts.scans import Scan, without_ending

_LONGEST_NAME = 255  # bytes, on all common disks


def find_scans(
    folder: str | Path,
    *,
    masks: str | None = None,
    segmentations: str | None = None,
) -> list[Scan]:
    """List the scans of a folder of NIfTI files or of a BIDS folder.

    Parameters
    ----------
    masks, segmentations : str, optional
        Where each scan's brain mask, and each person's own regions, are, see `from_bids`. In a
        folder of NIfTI files, ``{participant_id}`` is the file's name without its ending.

    Raises
    ------
    FileNotFoundError
        If there is no folder or no scan.
    ValueError
        If two scans would write to the same file on a disk that does not tell capital letters
        from small ones, a name is too long for a disk or not UTF-8, or a pattern has an unknown
        placeholder.
    """
    folder = Path(folder)
    files = sorted(
        path.name
        for path in folder.glob("[!.]*")
        if path.name.endswith((".nii", ".nii.gz")) and not path.is_dir()
    )
    if files:
        people = [without_ending(Path(file)) for file in files]
        scans = [
            _scan(folder, file, person, "", person, masks, segmentations)
            for file, person in zip(files, people, strict=True)
        ]
    else:
        try:
            scans = find_in_bids(folder, masks=masks, segmentations=segmentations)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}; or NIfTI files (.nii, .nii.gz) in it") from error
    check_names(folder, scans, [""])
    return scans


def find_in_bids(
    folder: str | Path, *, masks: str | None = None, segmentations: str | None = None
) -> list[Scan]:
    """List the T1-weighted scans of a BIDS folder, ordered by their paths.

    Raises
    ------
    FileNotFoundError
        If there is no folder or no scan.
    ValueError
        If a pattern has an unknown placeholder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder at {folder}; expected one with sub-* folders in it")
    found = []
    for pattern in ("sub-*/anat/sub-*_T1w.nii*", "sub-*/ses-*/anat/sub-*_T1w.nii*"):
        for path in folder.glob(pattern):
            if path.name.endswith((".nii", ".nii.gz")):
                parts = path.relative_to(folder).parts
                session = parts[1] if len(parts) == 4 else ""
                found.append((parts[0], session, "/".join(parts)))
    if not found:
        raise FileNotFoundError(
            f"no scan in {folder}; expected sub-*/anat/sub-*_T1w.nii.gz, or the same below a "
            f"ses-* folder"
        )
    return [
        _scan(folder, file, *whose, Path(file).name.split("_T1w.nii")[0], masks, segmentations)
        for *whose, file in sorted(found)
    ]


def check_names(folder: Path, scans: Sequence[Scan], endings: Sequence[str]) -> None:
    """Raise a ValueError if a disk could not hold the results of all scans, each under its name.

    Disks differ: some do not tell capital letters from small ones, and names have a limit.

    Parameters
    ----------
    endings : sequence of str
        What each scan's name is followed by in the names of the files that will be written.
    """
    taken: dict[str, str] = {}
    for scan in scans:
        file = scan.file
        try:
            longest = max(len(scan.derived("", ending).name.encode()) for ending in endings)
            str(folder / file).encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"the name of {str(folder / file)!a} is not UTF-8, so no table can hold it; "
                f"rename the file or folder"
            ) from error
        if longest > _LONGEST_NAME:
            raise ValueError(
                f"the name of {file} in {folder} is too long: a result's name would have {longest} "
                f"bytes, disks take {_LONGEST_NAME}; rename the file"
            )
        for ending in endings:
            # As on the disks of macOS and Windows: A is a, and e with an accent is one letter.
            written = scan.derived("", ending).as_posix()
            other = taken.setdefault(unicodedata.normalize("NFC", written.casefold()), file)
            if other != file:
                raise ValueError(
                    f"results of {other} and {file} in {folder} would overwrite each other, both "
                    f"would be called {written}; rename one of the scans"
                )


def _scan(
    folder: Path,
    file: str,
    person: str,
    session: str,
    name: str,
    masks: str | None,
    segmentations: str | None,
) -> Scan:
    """Return a scan with the placeholders of its patterns filled."""
    words = {"participant_id": person, "session": session, "name": name}
    paths = []
    for what, pattern in (("masks", masks), ("segmentations", segmentations)):
        try:
            paths.append(None if pattern is None else folder / pattern.format(**words))
        except (KeyError, IndexError) as error:
            raise ValueError(
                f"{what}={pattern!r} has an unknown placeholder {error}; expected "
                f"{{participant_id}}, {{session}} or {{name}}"
            ) from error
    return Scan(folder / file, paths[0], person, session, file, paths[1])
