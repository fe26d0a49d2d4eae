"""The checks for masked gradients: which a model passed, and which found a sign."""

from collections.abc import Sequence

from jaxiqa.reports.table import Entry, Table
from jaxiqa.results.rows import MaskingRow


def masking_table(checks: Sequence[MaskingRow]) -> Table | None:
    """Return one line per model, seed and check; None without checks.

    >>> row = MaskingRow("base", 0, "zero gradients", 0.0, 0.1, False, "")
    >>> masking_table([row]).rows
    [['base', ('0', 0.0), 'zero gradients', 'passed', ('0', 0.0), ('0.1', 0.1), '']]
    """
    if not checks:
        return None
    rows: list[list[str | Entry]] = [
        [
            row.model,
            (str(row.seed), float(row.seed)),
            row.check,
            "sign found" if row.flagged else "passed",
            (f"{row.value:.3g}", row.value),
            (f"{row.limit:.3g}", row.limit),
            row.remedy if row.flagged else "",
        ]
        for row in checks
    ]
    notes = [
        "Masked gradients make attacks fail although the metric is not robust. A check that found no sign is passed; "
        "this is no proof that there is none.",
    ]
    header = ["model", "seed", "check", "result", "value", "limit", "what to do"]
    return Table("Checks for masked gradients", header, rows, notes, text=4)


def masking_notes(checks: Sequence[MaskingRow]) -> list[str]:
    """Return how many checks passed, and one warning per sign; nothing without checks.

    >>> row = MaskingRow("base", 0, "zero gradients", 0.0, 0.1, False, "")
    >>> masking_notes([row])
    ['Checks for masked gradients: 1 of 1 passed.']
    """
    signs = [
        f"Warning, masked gradients? {row.model} seed {row.seed}: {row.check}: {row.value:.3g}, limit {row.limit:.3g}: "
        f"{row.remedy}."
        for row in checks
        if row.flagged
    ]
    passed = [f"Checks for masked gradients: {len(checks) - len(signs)} of {len(checks)} passed."] if checks else []
    return [*passed, *signs]
