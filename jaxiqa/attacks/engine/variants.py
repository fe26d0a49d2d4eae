"""Options of attacks with two variants: the paper's, and the one run for "Guardians of Image Quality: Benchmarking
Defenses Against Adversarial Attacks on Image Quality Metrics", arXiv:2408.01541."""

from typing import Any

from jaxiqa.attacks.engine.loop import check_steps
from jaxiqa.attacks.engine.objective import as_objective
from jaxiqa.core.checks import check_choice, check_number


def complete(attack: Any, defaults: dict[str, dict[str, Any]]) -> None:
    """Set each option that is None to the default of its variant, then check all options; for ``__post_init__``.

    Args:
        attack: a frozen dataclass with ``variant``, ``steps`` and ``objective``.
        defaults: for each variant, values by field name.

    Raises:
        ValueError: an unknown variant or objective, ``steps`` < 1, or a number below 0.

    >>> from jaxiqa.attacks.madc import MADC
    >>> MADC().steps, MADC(variant="benchmark").steps, MADC(variant="benchmark", steps=3).steps
    (10, 8, 3)
    """
    check_choice("variant", attack.variant, defaults)
    for name, value in defaults[attack.variant].items():
        if getattr(attack, name) is None:
            object.__setattr__(attack, name, value)
    check_steps(attack.steps)
    object.__setattr__(attack, "objective", as_objective(attack.objective))
    for name, value in vars(attack).items():
        if name not in ("variant", "objective", "steps"):
            check_number(name, value, 0.0, open_low=name == "score_scale", or_none=True)
