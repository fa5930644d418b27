"""Real brains for everybody: 37 people of OpenNeuro's ds002748, in the public domain, shipped.

T1-weighted scans of one site, without skulls, so without faces: 26 people with mild to moderate
depression and 11 healthy ones, 27 women and 10 men. They show what a network makes of real anatomy,
and of a site that it has not seen. They are too few for any claim about depression.

References
----------
Bezmaternykh, Melnikov, Savelov et al. (2021), Brain networks connectivity in mild to moderate
depression, Neural Plasticity, 8846097; the scans: OpenNeuro ds002748, version 1.0.5, CC0.
"""

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from helpers import grids
from helpers.cohorts import participants as participants_table
from helpers.cohorts.cohort import Cohort
from helpers.cohorts.report import Report

FOLDER = Path(__file__).with_name("ds002748")
BRAINS, PARTICIPANTS, REPORTS, STUDY = "brains.nii.gz", "participants.tsv", "reports", "study"
STUDY_MASKS = "derivatives/masks/{participant_id}/anat/{participant_id}_desc-brain_mask.nii.gz"


def real(
    label: str | None = "sex",
    *,
    classes: Sequence[str] | None = None,
    bins: Sequence[float] | None = None,
) -> Cohort:
    """Load the real brains that ship with the package, on the 4 mm teaching grid.

    Preprocessed as `from_bids` does it, with each brain's own mask, and kept in 8 bit: a volume is
    off by 0.006 at most, where the median of a brain is 1.

    Parameters
    ----------
    label : str or None
        ``"sex"`` (F, M), ``"group"`` (control, depression) or, with ``bins``, ``"age"`` in years.
        None makes all of them one class.
    classes, bins
        As in `from_bids`.

    Returns
    -------
    cohort : Cohort
        ``participants`` has ``age``, ``sex``, ``group`` and the quality of the preprocessing:
        ``volume_ratio`` is the head size that it removed (above 1 for heads smaller than the
        template). ``reports`` says how each scan was moved: `to_scan` brings maps back to it.

    Raises
    ------
    ValueError
        If there is no such column, or a numeric one comes without bins.

    Examples
    --------
    >>> from helpers import cohorts
    >>> cohorts.real()
    Cohort(37 subjects: 27 F, 10 M; 48x56x48 voxels)
    >>> cohorts.real("age", bins=[35]).classes
    ('age < 35', 'age >= 35')
    """
    table = participants_table.read(FOLDER, required=True)
    values, classes = participants_table.label_values(table, label, classes, bins)
    meant = np.flatnonzero(values.isin(classes))
    levels = np.asarray(nib.load(FOLDER / BRAINS).dataobj, dtype=np.float32)[..., meant]
    names = table["participant_id"].iloc[meant]
    return Cohort(
        volumes=torch.from_numpy(np.moveaxis(levels, -1, 0).copy())[:, None],
        labels=torch.tensor([classes.index(value) for value in values.iloc[meant]]),
        classes=classes,
        participants=participants_table.typed(table).iloc[meant],
        grid=grids.mni(),
        reports=[Report.load(FOLDER / REPORTS / f"{name}.json") for name in names],
    )


def real_study() -> Path:
    """Return a BIDS folder with twelve of the real scans, as a study of one's own has them.

    Six women and six men at 2 mm, half of them patients, with ``participants.tsv``, and brain masks
    in ``derivatives/masks``; `STUDY_MASKS` says where for `from_bids`. Read it; write elsewhere.

    Examples
    --------
    >>> from helpers import cohorts
    >>> len(list(cohorts.real_study().glob("sub-*")))
    12
    """
    return FOLDER / STUDY
