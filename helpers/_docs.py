"""Texts of parameters that many functions share, written once.

A docstring holds the name of such a parameter in braces, alone on its line, and `filled` puts the
text in its place: for ``help()``, for the API page and for the tooltip of a notebook.
"""

import re
import textwrap
from collections.abc import Callable
from typing import TypeVar

Function = TypeVar("Function", bound=Callable)

PARAMETERS = {
    "model": """\
        model : Module
            A classifier with one logit a class; left as it was.
        """,
    "volumes": """\
        volumes : tensor of shape (subject, 1, x, y, z)
        """,
    "target": """\
        target : int or tensor of shape (subject,), optional
            Class to explain; default each subject's predicted class. A network with one logit z has
            the classes 0 and 1, and the logit of class 0 is -z.
        """,
    "batch_size": """\
        batch_size : int
            Subjects at a time; lower it when memory is short.
        """,
    "progress": """\
        progress : bool
            Show a progress bar.
        """,
}


def filled(function: Function) -> Function:
    """Put the shared texts into a function's docstring.

    Raises
    ------
    ValueError
        If there is no text of that name.

    Examples
    --------
    >>> from helpers import _docs
    >>> @_docs.filled
    ... def look(volumes):
    ...     '''Look at volumes.
    ...
    ...     Parameters
    ...     ----------
    ...     {volumes}
    ...     '''
    >>> print(look.__doc__.splitlines()[-2].strip())
    volumes : tensor of shape (subject, 1, x, y, z)
    """

    def text(placeholder: re.Match) -> str:
        indent, name = placeholder.groups()
        if name not in PARAMETERS:
            raise ValueError(
                f"{function.__qualname__} asks for the text of {name!r}; "
                f"there are {sorted(PARAMETERS)}"
            )
        return textwrap.indent(textwrap.dedent(PARAMETERS[name]).rstrip(), indent)

    if function.__doc__:  # python -OO has none
        function.__doc__ = re.sub(r"^( *)\{(\w+)\}$", text, function.__doc__, flags=re.MULTILINE)
    return function
