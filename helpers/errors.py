"""What one part of this package raises and another part, or a reader's program, catches.

Everything else that a caller got wrong is a plain ValueError, KeyError or FileNotFoundError.
"""

from pathlib import Path

import pandas as pd


class BrokenScanError(ValueError):
    """A scan that cannot become a trustworthy volume; the message says why."""


class BrokenScansError(ValueError):
    """Scans that could not be used; all good ones are in the cache by now.

    Attributes
    ----------
    problems : DataFrame
        One row a problem: ``participant_id``, ``file``, ``kind``, ``detail``.
    """

    def __init__(self, message: str, problems: pd.DataFrame):
        super().__init__(message)
        self.problems = problems


class NotRegisteredError(ValueError):
    """Maps of several people of which no voxel is the same place in all of them."""


class LeftOutWarning(UserWarning):
    """People or scans of a folder are not in the cohort."""


class CannotWriteError(OSError):
    """A file could not be written: a full disk, no permission, a name that is too long."""


class OtherProcessError(RuntimeError):
    """Another of the processes that share the work has ended with an error."""


class InterruptedWarning(UserWarning):
    """Somebody stopped a long computation, which returned what it had so far."""


def beside_name(error: Exception, file: str | Path) -> str:
    """Return what an error says for a place where the file is named already: "it" stands for it.

    Examples
    --------
    >>> from helpers import errors
    >>> error = errors.BrokenScanError("study/sub-01_T1w.nii.gz is damaged")
    >>> errors.beside_name(error, "study/sub-01_T1w.nii.gz")
    'it is damaged'
    """
    return str(error).replace(str(file), "it")
