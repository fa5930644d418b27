"""Compare a reader's answer with the right one, and say something helpful either way."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from helpers.exercises.answers import Reader, Unreadable


@dataclass(frozen=True)
class Exercise:
    """One exercise's answer.

    Attributes
    ----------
    read : callable
        One of the readers of `helpers.exercises.answers`: ``read(answer)`` is a value of the kind
        that was asked for, or `Unreadable`.
    right : callable
        ``right(value) -> bool``.
    praise : str
        Said after a right answer: one sentence on why it is right.
    hint : str
        Said after a wrong one: where to look, not the answer.
    """

    read: Reader
    right: Callable[[Any], bool]
    praise: str
    hint: str


def check(name: str, answer: Any) -> None:
    """Say whether an answer is right.

    Parameters
    ----------
    name : str
        Number of the exercise, for example ``"1.2"``.
    answer : object
        The reader's answer; ``...`` means that there is none yet.

    Raises
    ------
    ValueError
        If there is no such exercise.

    Examples
    --------
    >>> from helpers import exercises
    >>> exercises.check("1.1", ...)
    Exercise 1.1: put your answer in the place of the three dots and run the cell again.
    """
    known = _exercises()
    if name not in known:
        raise ValueError(f"there is no exercise {name!r}; there are {sorted(known)}")
    exercise = known[name]
    if answer is ...:
        print(
            f"Exercise {name}: put your answer in the place of the three dots "
            f"and run the cell again."
        )
        return
    try:
        right = exercise.right(exercise.read(answer))
    except Unreadable as error:
        print(f"Exercise {name}: not yet. {error}")
        print(exercise.hint)
        return
    print(
        f"Exercise {name}: right. {exercise.praise}"
        if right
        else f"Exercise {name}: not yet. {exercise.hint}"
    )


def _exercises() -> dict[str, Exercise]:
    """Gather ``EXERCISES`` from the modules ``chapter_*`` beside this one."""
    package = import_module("helpers.exercises")
    found: dict[str, Exercise] = {}
    for module in iter_modules(package.__path__):
        if module.name.startswith("chapter_"):
            found |= import_module(f"helpers.exercises.{module.name}").EXERCISES
    return found
