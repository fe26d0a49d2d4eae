"""Order and names of attack strengths in reports."""

from collections.abc import Iterable

from jaxiqa.results.rows import StrengthKey

LEVELS = ("weak", "medium", "strong")


def format_strength(strength: StrengthKey) -> str:
    """Return a strength for reading: the name of a level, else `in_255ths`; a dash for None."""
    if strength is None:
        return "–"
    return strength if isinstance(strength, str) else in_255ths(strength)


def as_number(strength: StrengthKey) -> str:
    """Return a strength for computing: ε in full precision, the name of a level, or nothing.

    >>> as_number(0.1), as_number("weak"), as_number(None)
    ('0.1', 'weak', '')
    """
    return "" if strength is None else strength if isinstance(strength, str) else repr(float(strength))


def in_order(strengths: Iterable[StrengthKey]) -> tuple[StrengthKey, ...]:
    """Sort from weak to strong.

    >>> in_order(["strong", "weak"]), in_order([0.2, 0.1])
    (('weak', 'strong'), (0.1, 0.2))
    """
    return tuple(sorted(strengths, key=lambda s: LEVELS.index(s) if isinstance(s, str) else s or 0.0))


def in_255ths(epsilon: float) -> str:
    """Return a strength in 255ths with nine digits: more than float32 has, so two strengths never share a column.

    >>> in_255ths(8 / 255), in_255ths(0.01), in_255ths(5.01e-5)
    ('8/255', '2.55/255', '0.0127755/255')
    """
    return f"{epsilon * 255:.9g}/255"
