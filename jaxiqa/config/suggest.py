"""Suggestions for unknown names."""

import difflib
from collections.abc import Iterable


def suggestion(name: object, choices: Iterable[object]) -> str:
    """Return ``"; did you mean 'pgd'?"`` for the nearest choice, and the list of choices, to append to a message.

    >>> suggestion("pgdd", ["pgd", "fgsm"])
    "; did you mean 'pgd'? There are 'pgd', 'fgsm'"
    >>> suggestion("xyz", ["pgd", "fgsm"])
    "; there are 'pgd', 'fgsm'"
    """
    known = [str(choice) for choice in choices]
    near = difflib.get_close_matches(str(name), known, n=1)
    listed = ", ".join(map(repr, known)) or "none"
    return f"; did you mean {near[0]!r}? There are {listed}" if near else f"; there are {listed}"
