"""Read a reader's answer as the kind of thing that an exercise asks for, or say what to change.

A *reader* is a function from the answer as it was given to a plain value of its kind. Whatever it
cannot read it refuses with `Unreadable`, whose sentence says what was expected and what came. One
rule for all exercises: numbers may be Python's, NumPy's or PyTorch's, but not text.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

Reader = Callable[[Any], Any]


class Unreadable(ValueError):
    """The answer is of another kind than the exercise asks for."""


def letter(letters: str = "abc") -> Reader:
    """Read one of some letters: ``"b"``, ``"B)"`` and ``"(b)"`` are the same."""
    choice = f"{', '.join(letters[:-1])} or {letters[-1]}"
    expected = f"one letter in quotation marks: {choice}"

    def read(answer: Any) -> str:
        given = answer.strip(" ().").lower() if isinstance(answer, str) else ""
        if len(given) != 1 or given not in letters:
            raise unreadable(expected, answer)
        return given

    return read


def word(*words: str) -> Reader:
    """Read one of some words; a beginning that fits only one of them is enough."""
    expected = f"one of the words {', '.join(map(repr, words))}"

    def read(answer: Any) -> str:
        given = answer.strip().lower() if isinstance(answer, str) else ""
        fitting = [known for known in words if known.startswith(given)]
        if len(fitting) != 1:
            raise unreadable(expected, answer)
        return fitting[0]

    return read


def numbers(*shape: int, between: tuple[float, float] | None = None) -> Reader:
    """Read finite numbers of a shape as an array; without a shape one number as a float."""
    expected = " of ".join([f"{n} rows" for n in shape[:-1]] + [f"{n} numbers" for n in shape[-1:]])
    expected = expected or "a number"
    if between:
        expected += " between {:g} and {:g}".format(*between)

    def read(answer: Any) -> np.ndarray | float:
        try:
            given = np.asarray(_plain(answer))
        except ValueError:  # rows of different lengths
            raise unreadable(expected, answer) from None
        if given.dtype.kind == "U":
            raise unreadable(expected, answer, "Write numbers without quotation marks.")
        if given.shape != shape:
            given = given.squeeze()
        if given.shape != shape or given.dtype.kind not in "iuf":
            raise unreadable(expected, answer)
        if not np.isfinite(given).all():
            raise unreadable(expected, answer, "Print what went into it, step by step.")
        if between and not (between[0] <= given.min() and given.max() <= between[1]):
            raise unreadable(expected, answer)
        return given.astype(float) if shape else float(given)

    return read


def truth(answer: Any) -> bool:
    """Read True or False."""
    given = _plain(answer)
    if not isinstance(given, bool):
        raise unreadable("True or False", answer)
    return given


def each(expected: str, *readers: Reader) -> Reader:
    """Read a tuple or a list, each of its parts by a reader of its own."""

    def read(answer: Any) -> tuple:
        given = _plain(answer)
        if not isinstance(given, list) or len(given) != len(readers):
            raise unreadable(expected, answer)
        return tuple(reader(part) for reader, part in zip(readers, given, strict=True))

    return read


def instance(kind: type, expected: str) -> Reader:
    """Read an object of a class as it is."""

    def read(answer: Any) -> Any:
        if not isinstance(answer, kind):
            raise unreadable(expected, answer)
        return answer

    return read


def function(answer: Any) -> Callable:
    """Read something that can be called."""
    if not callable(answer):
        raise unreadable("a function, its name without parentheses", answer)
    return answer


def one_each(written: Callable, *given: Any, count: int) -> torch.Tensor:
    """Call what the reader wrote; it must return one number for each of ``count`` things."""
    try:
        found = written(*given)
    except Exception as error:  # the reader's own code: say where to look, do not crash
        came = f"{type(error).__name__}: {error}"
        raise Unreadable(f"Your function was tried and stopped with {came}.") from error
    if not isinstance(found, torch.Tensor) or tuple(found.shape) != (count,):
        expected = f"a tensor of shape ({count},) from your function, one number for each"
        raise unreadable(expected, found)
    return found


def near(*values: Any, within: float = 0.005) -> Callable[[Any], bool]:
    """Return a check that numbers lie within a distance of these."""
    right = values if len(values) > 1 else values[0]
    return lambda given: bool(np.allclose(given, right, rtol=0, atol=within))


def equal(value: Any) -> Callable[[Any], bool]:
    """Return a check for one value."""
    return lambda given: given == value


def unreadable(expected: str, answer: Any, advice: str = "") -> Unreadable:
    """Say what was expected, what came and what to do."""
    return Unreadable(f"Expected {expected}; got {_described(answer)}. {advice}".rstrip())


def _described(answer: Any) -> str:
    if answer is None:
        return "None, so nothing was returned"
    if isinstance(answer, str):
        return f"the text {answer[:40]!r}"
    if getattr(answer, "shape", ()):
        return f"a {type(answer).__name__} of shape {tuple(answer.shape)}"
    said = repr(_plain(answer))
    return said if len(said) < 60 and "<" not in said else f"a {type(answer).__name__}"


def _plain(answer: Any) -> Any:
    """Return tensors, arrays and tuples as lists, and their scalars as Python's."""
    if isinstance(answer, list | tuple):
        return [_plain(part) for part in answer]
    return answer.tolist() if isinstance(answer, torch.Tensor | np.ndarray | np.generic) else answer
