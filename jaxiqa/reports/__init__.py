"""Reports of rows: tables, plots and self-contained pages."""

from jaxiqa.core.lazy import lazy

HOMES = dict.fromkeys(("write_defenses", "write_paper", "write_report"), "jaxiqa.reports.write")
HOMES["write_folds"] = "jaxiqa.reports.attacks.folds"
__all__ = list(HOMES)
__getattr__ = lazy(__name__, HOMES)
