"""Shared parameter texts: in their place, at their depth, and none left out."""

import inspect
import re

import pytest

from helpers import _docs, attribution, evaluation


def test_a_text_stands_where_its_name_stood_and_the_rest_is_left():
    @_docs.filled
    def look(model, share):
        """Look at {model} and 5 % of {it}.

        Parameters
        ----------
        {model}
        share : float
            A set such as {0.5}.

        Returns
        -------
        {batch_size}
        """

    assert inspect.getdoc(look).splitlines() == [
        "Look at {model} and 5 % of {it}.",
        "",
        "Parameters",
        "----------",
        "model : Module",
        "    A classifier with one logit a class; left as it was.",
        "share : float",
        "    A set such as {0.5}.",
        "",
        "Returns",
        "-------",
        "batch_size : int",
        "    Subjects at a time; lower it when memory is short.",
    ]


def test_a_name_without_a_text_is_refused():
    def look():
        """Look.

        {modell}
        """

    with pytest.raises(ValueError, match=r"look asks for the text of 'modell'; there are \['batch"):
        _docs.filled(look)


def test_a_function_without_a_docstring_stays_as_it_is():
    def quiet():
        pass

    assert _docs.filled(quiet) is quiet
    assert quiet.__doc__ is None


@pytest.mark.parametrize(
    "function", [*attribution.METHODS.values(), evaluation.faithfulness, evaluation.mask_test]
)
def test_help_shows_every_parameter_and_no_braces(function):
    shown = inspect.getdoc(function)
    assert not re.search(r"^ *\{\w+\}$", shown, flags=re.MULTILINE)
    section = shown.split("Parameters\n----------\n")[1].split("\n\nReturns")[0]
    named = [name for line in re.findall(r"^\S[^:\n]*", section, re.M) for name in line.split(",")]
    named = {name.strip(" *") for name in named}
    assert named == set(inspect.signature(function).parameters)
