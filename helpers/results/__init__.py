"""Results of long computations, committed with the command, seeds and versions that made them.

Chapters quote them; the programs in ``data_scripts`` write them. A program that runs for hours
keeps every `part` on the way, and goes on from them after an interruption.
"""

import functools
import inspect
import json
import platform
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from helpers import keyed, runtime
from helpers.results.packing import pack, unpack

__all__ = ["pack", "part", "read", "unpack", "versions", "write"]

FOLDER = Path(__file__).parent


def read(name: str) -> dict[str, Any]:
    """Return a committed result.

    Raises
    ------
    ValueError
        If there is no result of this name; the message lists those that exist.

    Examples
    --------
    >>> from helpers import results
    >>> results.read("real_brains")["command"]
    'python data_scripts/score_real_brains.py'
    """
    path = FOLDER / f"{name}.json"
    if not path.exists():
        known = sorted(other.stem for other in FOLDER.glob("*.json"))
        raise ValueError(f"no result {name!r}; there are {known}")
    return json.loads(path.read_text())


def write(name: str, result: dict[str, Any], *, folder: Path = FOLDER) -> Path:
    """Write a result, all or nothing, and add the versions of what computed it."""
    path = folder / f"{name}.json"
    runtime.write_json(path, {**result, "versions": versions()})
    return path


def versions() -> dict[str, str]:
    """Return the versions of what computes here."""
    packages = ("torch", "nilearn", "SimpleITK")
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def part(
    path: str | Path, compute: Callable[..., Mapping[str, Any]], *arguments: Any, **options: Any
) -> dict[str, Any]:
    """Return ``compute(*arguments, **options)``, from a file if the same was computed before.

    The same means: equal arguments (see `helpers.keyed.fingerprint`; pass networks and data, not
    only their names), and unchanged code of this package and of the file that defines ``compute``.
    Anything else, and a damaged file, is computed anew, with a warning that says why.

    Parameters
    ----------
    path : path
        Written all or nothing.
    compute : callable
        Returns a mapping with tables, tensors and what JSON can hold.
    *arguments, **options
        Passed to ``compute``.

    Returns
    -------
    dict
        As read back from the file, also the first time: a resumed run sees the same numbers.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from helpers import results
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "sum.safetensors"
    >>> def add(*numbers):
    ...     print("adding")
    ...     return {"sum": sum(numbers)}
    >>> results.part(path, add, 1, 2)
    adding
    {'sum': 3}
    >>> results.part(path, add, 1, 2)
    {'sum': 3}
    """
    bound = inspect.signature(compute).bind(*arguments, **options)
    bound.apply_defaults()
    key = {name: keyed.fingerprint(value) for name, value in bound.arguments.items()}
    key["code"] = _code(inspect.getsourcefile(compute))
    if Path(path).exists():
        try:
            return _unpacked(*keyed.load(path, key=key))
        except ValueError as error:
            warnings.warn(f"{error}; computed anew", stacklevel=2)
    computed = compute(*arguments, **options)
    tensors = {name: value for name, value in computed.items() if isinstance(value, Tensor)}
    tables = {n: v.to_dict("tight") for n, v in computed.items() if isinstance(v, pd.DataFrame)}
    rest = {n: v for n, v in computed.items() if n not in tensors and n not in tables}
    keyed.save(path, key=key, tensors=tensors, facts={"tables": tables, "rest": rest})
    return _unpacked(*keyed.load(path, key=key))


def _unpacked(tensors: dict[str, Tensor], facts: dict[str, dict]) -> dict[str, Any]:
    tables = {n: pd.DataFrame.from_dict(v, orient="tight") for n, v in facts["tables"].items()}
    return {**tensors, **tables, **facts["rest"]}


@functools.cache
def _code(program: str | None) -> str:
    """Return a fingerprint of all sources that a result may depend on."""
    sources = sorted(FOLDER.parent.rglob("*.py"))
    if program is not None and Path(program).exists():
        sources.append(Path(program))
    return keyed.fingerprint([version("torch"), *(source.read_bytes() for source in sources)])
