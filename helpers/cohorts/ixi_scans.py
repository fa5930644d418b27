"""IXI: T1-weighted scans of healthy people, with age and sex, downloaded on request.

The subset is 139 people scanned at Hammersmith Hospital (3 T), at 2 mm, with a DLMUSE parcellation
of each brain: 91 MB. The files come from the public repository CBICA/NiChart_Project at one fixed
commit; `ixi_registry.csv` holds each person's age and sex and each file's size and SHA-256, so
that everybody works on the same bytes.

The scans show whole heads, faces included: show nobody's picture before its brain is cut out.

References
----------
IXI, https://brain-development.org/ixi-dataset. Bashyam et al. (2025), DLMUSE: robust brain
segmentation in seconds using deep learning, Radiology: Artificial Intelligence.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pooch
import requests

from helpers import runtime
from helpers.cohorts import bids
from helpers.cohorts.cohort import Cohort
from helpers.grids import Grid

COMMIT = "94e682253a525b14d6ca709f50e17975a243c7e0"
BASE_URL = f"https://raw.githubusercontent.com/CBICA/NiChart_Project/{COMMIT}/"
REGISTRY = Path(__file__).with_name("ixi_registry.csv")
LICENSE = (
    "Images: IXI dataset, https://brain-development.org/ixi-dataset, licence CC BY-SA 3.0 "
    "(name the source; share what you derive under the same licence). "
    "Parcellations: made with DLMUSE by the Section of Biomedical Image Analysis, University of "
    "Pennsylvania, under its licence, https://www.med.upenn.edu/cbica/software-agreement.html. "
    "Files: https://github.com/CBICA/NiChart_Project at commit " + COMMIT
)

_SCAN_SOURCE = "test_data/processed/IXI/t1/{scan}_T1.nii.gz"
_MASK_SOURCE = "test_data/processed/IXI/DLMUSE_seg/{scan}_T1_DLMUSE.nii.gz"
_SCAN = "{participant_id}/anat/{participant_id}_T1w.nii.gz"
_MASK = "derivatives/dlmuse/{participant_id}_dseg.nii.gz"


def ixi(
    folder: str | Path | None = None,
    label: str = "sex",
    *,
    grid: Grid | None = None,
    bins: Sequence[float] | None = None,
    cache: str | Path | None = None,
    on_error: str = "raise",
    progress: bool = True,
) -> Cohort:
    """Load IXI as a cohort in MNI space.

    Parameters
    ----------
    folder : str or Path, optional
        Where the scans already are, in BIDS layout; nothing is downloaded then. By default they
        are downloaded once (91 MB) into the user's cache folder.
    label : str
        ``"sex"`` or, with ``bins``, ``"age"``.
    grid, bins, cache, on_error, progress
        As in `from_bids`. Brains are cut out with the DLMUSE parcellations if the folder has them.

    Raises
    ------
    ConnectionError
        If the download does not succeed. Finished files are kept; call again to go on.

    Examples
    --------
    >>> from helpers import cohorts
    >>> cohort = cohorts.ixi()  # doctest: +SKIP
    >>> by_age = cohorts.ixi(label="age", bins=[40, 60])  # doctest: +SKIP
    """
    folder = fetch_ixi(progress=progress) if folder is None else Path(folder)
    has_masks = (folder / "derivatives" / "dlmuse").is_dir()
    return bids.from_bids(
        folder,
        label,
        grid=grid,
        bins=bins,
        masks=_MASK if has_masks else None,
        cache=cache,
        on_error=on_error,
        progress=progress,
    )


def fetch_ixi(
    folder: str | Path | None = None,
    *,
    base_url: str = BASE_URL,
    registry: str | Path = REGISTRY,
    progress: bool = True,
) -> Path:
    """Download IXI into a BIDS folder, checking every file; resumes where it stopped.

    Parameters
    ----------
    folder : str or Path, optional
        Where to; by default in the user's cache folder.
    base_url : str
        Where from: another mirror of the same files.
    registry : str or Path
        CSV with one row a person: ``participant_id, age, sex, scan`` (the name at the source),
        ``t1w_bytes, t1w_sha256, dseg_bytes, dseg_sha256``. By default the 139 people of the
        course; fewer rows make a smaller download.
    progress : bool
        Show the licence and a progress bar.

    Returns
    -------
    folder : Path

    Raises
    ------
    ConnectionError
        If the source cannot be reached or does not have a file.
    ValueError
        If a file is not the one that the registry describes.
    """
    folder = Path(pooch.os_cache("brain-cnn-helpers")) / "ixi" if folder is None else Path(folder)
    people = pd.read_csv(registry, dtype=str)
    hashes, urls = {}, {}
    base_url = base_url.rstrip("/") + "/"
    for person in people.to_dict("records"):
        for kind, local, source in (("t1w", _SCAN, _SCAN_SOURCE), ("dseg", _MASK, _MASK_SOURCE)):
            file = local.format(participant_id=person["participant_id"])
            hashes[file] = f"sha256:{person[f'{kind}_sha256']}"
            urls[file] = base_url + source.format(scan=person["scan"])
    if progress:
        megabytes = people[["t1w_bytes", "dseg_bytes"]].astype(int).to_numpy().sum() / 1e6
        print(f"IXI, {len(people)} people, {megabytes:.0f} MB, into {folder}. {LICENSE}")
    source = pooch.create(folder, base_url=base_url, registry=hashes, urls=urls, retry_if_failed=1)
    pooch.get_logger().setLevel("WARNING")
    for file in runtime.progress(hashes, label="downloading IXI", show=progress):
        try:
            source.fetch(file)
        except requests.RequestException as error:
            raise ConnectionError(
                f"{urls[file]} could not be downloaded ({type(error).__name__}: {error}). Files "
                f"that are complete stay in {folder}; go online and call again to go on, or copy "
                f"a finished folder from another machine and pass it as folder"
            ) from error
        except ValueError as error:
            raise ValueError(
                f"{urls[file]} is not the file that the registry describes; it was not kept. Call "
                f"again, and if it stays so the source has changed: {error}"
            ) from error
    _describe(folder, people)
    return folder


def _describe(folder: Path, people: pd.DataFrame) -> None:
    with runtime.replacing(folder / "README") as unfinished:
        unfinished.write_text(LICENSE.replace(". ", ".\n") + "\n")
    description = {
        "Name": "IXI, Hammersmith 3T, T1w at 2 mm",
        "BIDSVersion": "1.9.0",
        "DatasetType": "raw",
        "License": "CC BY-SA 3.0",
    }
    runtime.write_json(folder / "dataset_description.json", description)
    with runtime.replacing(folder / "participants.tsv") as unfinished:
        people[["participant_id", "age", "sex"]].to_csv(unfinished, sep="\t", index=False)
