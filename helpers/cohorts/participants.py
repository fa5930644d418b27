"""The table of a BIDS folder: who took part, and which class each of them is in.

A class is read from a column as it stands, or made from a numeric column with edges that the
caller gives. Nothing is guessed about where to cut an age.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

MISSING = ("", "n/a", "N/A", "NA", "nan", "NaN")
# A column of whole numbers with at most this many values is read as codes of classes (0/1, 1/2).
MAXIMUM_CODES = 10


def read(folder: Path, *, required: bool) -> pd.DataFrame | None:
    """Read ``participants.tsv`` as text, one row a person, ids beginning with ``sub-``.

    Parameters
    ----------
    required : bool
        Raise if there is no table; otherwise None comes back.
    """
    path = folder / "participants.tsv"
    if not path.exists():
        if required:
            raise FileNotFoundError(
                f"no participants.tsv in {folder}; expected a tab-separated table with the column "
                f"participant_id and one for the label. label=None loads scans without labels"
            )
        return None
    table = pd.read_csv(
        path,
        sep="\t",
        dtype=str,
        keep_default_na=False,
        encoding="utf-8-sig",
        skip_blank_lines=True,
    )
    table.columns = table.columns.str.strip()
    if "participant_id" not in table:
        raise ValueError(
            f"{path} has the columns {list(table.columns)}; expected participant_id, and tabs "
            f"between the columns"
        )
    table = table.fillna("").apply(lambda column: column.str.strip())
    ids = table["participant_id"]
    table["participant_id"] = ids.where(ids.str.startswith("sub-"), "sub-" + ids)
    duplicates = table.loc[table["participant_id"].duplicated(), "participant_id"]
    if len(duplicates):
        raise ValueError(
            f"{path} has more than one row for {sorted(set(duplicates))}; keep one row a person"
        )
    return table


def label_values(
    table: pd.DataFrame,
    label: str | None,
    classes: Sequence[str] | None,
    bins: Sequence[float] | None,
) -> tuple[pd.Series, tuple[str, ...]]:
    """Return the class name of each row ("" where there is none) and all class names in order.

    The parameters are those of `bids.from_bids`.
    """
    if label is None:
        return pd.Series("unlabelled", index=table.index), ("unlabelled",)
    if label not in table or label == "participant_id":
        others = [column for column in table if column != "participant_id"]
        raise ValueError(f"participants.tsv has no column {label!r} to learn; it has {others}")
    values = table[label].where(~table[label].isin(MISSING), "")
    present = values[values != ""]
    if present.empty:
        raise ValueError(f"the column {label!r} of participants.tsv is empty")
    numbers = pd.to_numeric(present, errors="coerce")
    if bins is not None:
        if classes is not None:
            raise ValueError("pass either classes or bins: bins name their classes themselves")
        return _binned(values, numbers, label, bins)
    numeric = numbers.notna().all()
    if classes is None:
        if numeric and (numbers.nunique() > MAXIMUM_CODES or (numbers % 1 != 0).any()):
            raise ValueError(
                f"the column {label!r} is numeric ({numbers.min():g} to {numbers.max():g}); say "
                f"where to cut it into classes, for example bins=[{numbers.median():g}]"
            )
        order = present.loc[numbers.sort_values(kind="stable").index] if numeric else present
        names = order.unique() if numeric else sorted(present.unique())
        return values, tuple(names)
    classes = tuple(str(name) for name in classes)
    unknown = [name for name in classes if name not in set(present)]
    if unknown or len(set(classes)) != len(classes):
        raise ValueError(
            f"classes {classes} do not fit the column {label!r}, whose values are "
            f"{sorted(present.unique())}; name each value once"
        )
    return values, classes


def typed(table: pd.DataFrame) -> pd.DataFrame:
    """Turn numeric columns of text into numbers and all ways to say "missing" into NaN."""
    table = table.copy()
    for column in table.columns.drop("participant_id"):
        values = table[column].where(~table[column].isin(MISSING))
        numbers = pd.to_numeric(values, errors="coerce")
        table[column] = numbers if (numbers.notna() == values.notna()).all() else values
    return table


def _binned(values, numbers, label, bins) -> tuple[pd.Series, tuple[str, ...]]:
    edges = [float(edge) for edge in bins]
    if not edges or sorted(set(edges)) != edges or numbers.isna().any():
        wrong = sorted(set(values[numbers.index][numbers.isna()]))
        raise ValueError(
            f"bins need rising edges and a numeric column; got bins={edges} and, in {label!r}, "
            f"values that are no numbers: {wrong}"
        )
    names = [
        f"{label} < {edges[0]:g}",
        *(f"{low:g} <= {label} < {high:g}" for low, high in pairwise(edges)),
        f"{label} >= {edges[-1]:g}",
    ]
    binned = values.copy()
    binned[numbers.index] = [names[i] for i in np.searchsorted(edges, numbers, side="right")]
    return binned, tuple(names)
