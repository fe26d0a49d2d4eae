"""Reports of rows: tables, plots and self-contained pages."""

from jaxiqa.core.lazy import lazy

HOMES = {"write_defenses": "jaxiqa.reports.write", "write_report": "jaxiqa.reports.write"}
__all__ = list(HOMES)
__getattr__ = lazy(__name__, HOMES)
