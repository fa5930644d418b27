"""Compare a reader's answer with the right one, and say something helpful either way."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import Any


@dataclass(frozen=True)
class Exercise:
    """One exercise's answer.

    Attributes
    ----------
    right : callable
        ``right(answer) -> bool``.
    praise : str
        Said after a right answer: one sentence on why it is right.
    hint : str
        Said after a wrong one: where to look, not the answer.
    """

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
        right = bool(exercise.right(answer))
    except Exception as error:  # an answer of a wrong kind is a wrong answer, not a crash
        print(f"Exercise {name}: not yet. The check could not read your answer ({error}).")
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
