"""The table of a BIDS folder: who took part, and which class each of them is in.

A class is read from a column as it stands, or made from a numeric column with edges that the
caller gives. Nothing is guessed about where to cut an age.
"""

import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pandas as pd

# Ways to write that a value is missing, in any case.
MISSING = ("", "n/a", "na", "#n/a", "nan", "null", "?", "-", "unknown", "missing", "-999", "-9999")
# A column of whole numbers with at most this many values is read as codes of classes (0/1, 1/2).
MAXIMUM_CODES = 10


def read(folder: Path, *, required: bool, called: Iterable[str] = ()) -> pd.DataFrame | None:
    """Read ``participants.tsv`` as text, one row a person, ids beginning with ``sub-``.

    The file is UTF-8 with tabs between the columns, as BIDS has it. A cell may stand in double
    quotes as a whole.

    Parameters
    ----------
    required : bool
        Raise if there is no table; otherwise None comes back.
    called : iterable of str
        How the scans call people: in a folder of NIfTI files, as the files are. Who is among them,
        with ``sub-`` or without it, is called so.

    Raises
    ------
    FileNotFoundError
        If there is no table and it is required.
    ValueError
        If the table cannot be read without guessing; the message names the line.

    Warns
    -----
    UserWarning
        If values hold characters that nobody sees.
    """
    path = folder / "participants.tsv"
    if not path.exists():
        if required:
            raise FileNotFoundError(
                f"no participants.tsv in {folder}; expected a tab-separated table with the column "
                f"participant_id and one for the label. label=None loads scans without labels"
            )
        return None
    (_, columns), *lines = _lines(path)
    if "participant_id" not in columns:
        raise ValueError(
            f"{path} has the columns {columns}; expected participant_id, and tabs between the "
            f"columns"
        )
    odd = sorted({name for name in columns if not name or columns.count(name) > 1})
    if odd:
        raise ValueError(f"{path} has columns without a name or of the same name, {odd}; name each")
    for number, cells in lines:
        if len(cells) != len(columns):
            raise ValueError(
                f"line {number} of {path} has {len(cells)} cells, its header {len(columns)}; "
                f"mend the tabs there"
            )
    table = pd.DataFrame([cells for _, cells in lines], columns=columns, dtype=str)
    ids = table["participant_id"]
    if (ids == "").any():
        raise ValueError(f"line {lines[int((ids == '').argmax())][0]} of {path} has no name in it")
    _check_visible(path, ("participant_id", ids), ("the header", pd.Series(columns)))
    for column in table.columns.drop("participant_id"):
        if invisible := _invisible(table[column]):
            warnings.warn(
                f"{path} has characters that nobody sees in {column!r}: {invisible}", stacklevel=3
            )
    table["participant_id"] = ids.where(ids.str.startswith("sub-"), "sub-" + ids)
    duplicates = table.loc[table["participant_id"].duplicated(), "participant_id"]
    if len(duplicates):
        raise ValueError(
            f"{path} has more than one row for {sorted(set(duplicates))}; keep one row a person"
        )
    names = {f"sub-{name.removeprefix('sub-')}": name for name in called}
    table["participant_id"] = table["participant_id"].replace(names)
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
    # Whoever asks for the class "unknown" by its name gets it.
    named = {str(name) for name in classes or ()}
    values = table[label].where(~_missing(table[label]) | table[label].isin(named), "")
    present = values[values != ""]
    if present.empty:
        raise ValueError(f"the column {label!r} of participants.tsv is empty")
    _check_visible("participants.tsv", (repr(label), present))
    numbers = _numbers(present, label)
    if bins is not None:
        if classes is not None:
            raise ValueError("pass either classes or bins: bins name their classes themselves")
        return _binned(values, numbers, label, bins)
    numeric = numbers.notna().all()
    if classes is None:
        if numeric and (numbers.nunique() > MAXIMUM_CODES or (numbers % 1 != 0).any()):
            raise ValueError(
                f"the column {label!r} is numeric ({numbers.min():g} to {numbers.max():g}); say "
                f"where to cut it into classes, for example bins=[{numbers.median():g}] (--bins "
                f"{numbers.median():g}), or learn the number itself (--regression)"
            )
        _check_spelling(sorted(present.unique()), label)
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
        values = table[column].where(~_missing(table[column]))
        numbers = _numbers(values, column)
        table[column] = numbers if (numbers.notna() == values.notna()).all() else values
    return table


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """Return the cells of each line that is not blank, with the line's number."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 (byte {error.object[error.start]:#x} at position "
            f"{error.start}); save it as UTF-8"
        ) from error
    if "\0" in text:
        raise ValueError(f"{path} holds zero bytes, so it is not UTF-8 text; save it as UTF-8")
    lines = []
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        if not line.strip():
            continue
        cells = [cell.strip(" ") for cell in line.split("\t")]
        cells = [c[1:-1].strip(" ") if len(c) > 1 and c[0] == c[-1] == '"' else c for c in cells]
        if any('"' in cell for cell in cells):
            raise ValueError(
                f'line {number} of {path} has a stray " in it; quote a whole cell or nothing'
            )
        lines.append((number, cells))
    if len(lines) < 2:
        raise ValueError(
            f"{path} is empty; expected a line with the columns and a line for each person"
        )
    return lines


def _missing(values: pd.Series) -> pd.Series:
    numbers = pd.to_numeric(values, errors="coerce")
    return values.str.casefold().isin(MISSING) | numbers.isin([-999, -9999])


def _numbers(values: pd.Series, column: str) -> pd.Series:
    """Return the values as numbers, NaN where they are none."""
    numbers = pd.to_numeric(values, errors="coerce").astype(float)
    if np.isinf(numbers).any():
        raise ValueError(
            f"the column {column!r} of participants.tsv holds "
            f"{sorted(set(values[np.isinf(numbers)]))}; expected finite numbers, or n/a"
        )
    return numbers


def _check_visible(where, *named: tuple[str, pd.Series]) -> None:
    for name, values in named:
        if invisible := _invisible(values):
            raise ValueError(
                f"{where} has characters that nobody sees in {name}: {invisible}; remove them"
            )


def _invisible(values: pd.Series) -> str:
    """Return the values with control, zero-width or odd space characters, as Python writes them."""
    hidden = {
        value
        for value in values
        if any(unicodedata.category(c)[0] in "CZ" and c != " " for c in value)
    }
    return ", ".join(ascii(value) for value in sorted(hidden))


def _check_spelling(names: list[str], label: str) -> None:
    """Refuse two values that look like one: 0 and 0.0, M and m, Male and m."""
    pairs = [f"{a!r} and {b!r}" for a, b in combinations(names, 2) if _alike(a, b)]
    if pairs:
        raise ValueError(
            f"in the column {label!r} of participants.tsv, {', '.join(pairs)} look like one "
            f"class written in two ways; write it in one, or pass classes=[...] with those you mean"
        )


def _alike(a: str, b: str) -> bool:
    short, long = sorted((a.casefold(), b.casefold()), key=len)
    if short == long or (len(short) == 1 and long.startswith(short) and long.isalpha()):
        return True
    try:
        return float(a) == float(b)
    except ValueError:
        return False


def _binned(values, numbers, label, bins) -> tuple[pd.Series, tuple[str, ...]]:
    edges = [float(edge) for edge in bins]
    rising = edges and np.isfinite(edges).all() and sorted(set(edges)) == edges
    if not rising or numbers.isna().any():
        wrong = sorted(set(values[numbers.index][numbers.isna()]))
        raise ValueError(
            f"bins need rising edges, all finite, and a numeric column; got bins={edges} and, in "
            f"{label!r}, values that are no numbers: {wrong}"
        )
    names = [
        f"{label} < {edges[0]:g}",
        *(f"{low:g} <= {label} < {high:g}" for low, high in pairwise(edges)),
        f"{label} >= {edges[-1]:g}",
    ]
    binned = values.copy()
    binned[numbers.index] = [names[i] for i in np.searchsorted(edges, numbers, side="right")]
    return binned, tuple(names)
