"""Merge the device.json of a device day into the tables of benchmarks/README.md.

    python benchmarks/device_tables.py runs/device_day/device.json            # --commit: if the machine knew none

Rows of layers and attacks go to the tables of these benchmarks, all others to the section "Devices", and all numbers to
the history. A step that measured something replaces what was measured by this step on a device of the same name before.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
import attack_rows
import history
import layers

FOLDER = Path(__file__).parent
START, END = "<!-- devices -->\n", "<!-- /devices -->"

Day = dict[str, Any]
"""A device.json."""


def read(path: Path, commit: str | None = None) -> Day:
    """Read a device.json; ``commit`` is for one whose machine had no git.

    Raises:
        ValueError: it is no device.json, one of ``--tiny``, or of an unknown commit; the message says what to do.
    """
    try:
        day = json.loads(path.read_text())
        steps, tiny = day["steps"], day["tiny"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no device.json: {error!r}") from error
    if tiny:
        raise ValueError(f"{path} was made with --tiny: its numbers have no meaning")
    if not steps.get("device", {}).get("rows"):
        raise ValueError(f"{path}: the step 'device' did not say what the device is; run it again")
    if commit:
        day["commit"] = commit
    if day["commit"] == "unknown":
        raise ValueError(f"{path}: the machine did not know the commit; give it by --commit")
    return day


def merge(day: Day, *, folder: Path = FOLDER) -> list[str]:
    """Add a day to layers.json, attacks.json, devices.json, the history and README.md in ``folder``.

    Returns:
        A sentence for each step that measured nothing.

    Raises:
        ValueError: README.md has no place for the tables.
    """
    page = folder / "README.md"
    if START not in page.read_text() or END not in page.read_text():
        raise ValueError(f"{page} needs the lines {START.strip()} and {END}")
    measured = {name: day[name] for name in ("commit", "date", "versions")}
    name = day["steps"]["device"]["rows"][0]["case"]
    store = folder / "devices.json"
    known = json.loads(store.read_text()) if store.exists() else {}
    steps, remarks = known.setdefault(name, {}), []
    for step, report in day["steps"].items():
        rest = []
        for row in report["rows"]:
            if "layers" in row:
                *head, rows = row["layers"]
                layers.keep(layers.Result(*head, [layers.Row(*one) for one in rows]), folder=folder, measured=measured)
            elif "attacks" in row:
                attack_rows.keep(attack_rows.Result(*row["attacks"]), folder=folder, measured=measured)
            else:
                rest.append(row)
                if row["numbers"]:
                    case, places = f"{step}: {row['case']}", {"folder": folder / "history", "measured": measured}
                    history.append("devices", name, case, row["numbers"], **places)
        if not report["rows"]:
            older = f"; the rows of {steps[step]['date'][:10]} stay" if step in steps else ""
            remarks.append(f"{step}: {report['status']}, no rows{older}")
        if report["rows"] or step not in steps:
            steps[step] = {**report, "rows": rest, "count": len(report["rows"]), **measured}
    store.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n")
    before, _, rest_of_page = page.read_text().partition(START)  # the tables above have changed it
    after = rest_of_page.partition(END)[2]
    page.write_text(f"{before}{START}{show(known)}{END}{after}")
    return remarks


def show(known: dict[str, dict[str, Any]]) -> str:
    """Return Markdown: for each device, what became of each step, and a table of each step's rows."""
    parts = []
    for name, steps in sorted(known.items()):
        parts.append(f"### {name}\n\n| step | result | rows | s | commit, date |\n|---|---|---:|---:|---|")
        for step, report in steps.items():
            error = report.get("error", "").strip().rpartition("\n")[2].replace("|", "\\|")
            result = f"{report['status']}: {error}" if error else report["status"]
            origin = f"{report['commit'][:12]}, {report['date'][:10]}"
            parts.append(f"| {step} | {result} | {report['count']} | {report.get('seconds', '')} | {origin} |")
        parts.append("")
        parts += [f"{table(step, report['rows'])}\n" for step, report in steps.items() if report["rows"]]
    return "\n".join(parts)


def table(step: str, rows: list[dict[str, Any]]) -> str:
    """Return the table of a step: a row for each case, a column for each kind of number.

    >>> print(table("speed", [{"case": "a|b", "numbers": {"s": 0.25}}, {"case": "c", "numbers": {}, "note": "failed"}]))
    | speed | s | note |
    |---|---:|---|
    | a\\|b | 0.25 |  |
    | c |  | failed |
    """
    names = list(dict.fromkeys(name for row in rows for name in row["numbers"]))
    notes = any("note" in row for row in rows)
    cells = lambda texts: "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"  # noqa: E731
    lines = [cells([step, *names, *["note"] * notes]), "|---|" + "---:|" * len(names) + "---|" * notes]
    for row in rows:
        numbers = [f"{row['numbers'][name]:.4g}" if name in row["numbers"] else "" for name in names]
        lines.append(cells([row["case"], *numbers, *[row.get("note", "")] * notes]))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="device.json")
    parser.add_argument("--commit", help="the commit that was measured, if the machine had no git")
    arguments = parser.parse_args()
    try:
        for remark in merge(read(arguments.file, arguments.commit)):
            print(remark)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
