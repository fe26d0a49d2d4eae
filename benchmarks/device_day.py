"""Run the steps of a device day, each within its time, and write device.json. benchmarks/device_day.sh starts this.

The steps (benchmarks/device_steps.py) run in one child process, which pays for starting JAX once. Time that a step does
not use is left to those after it. A step that takes longer is ended; a new child then runs the other steps. device.json
is written after each row: whatever happens, it has what was measured, what failed, and why.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
import history

from jaxiqa.core.files import write_text
from jaxiqa.core.version import source_commit

FOLDER = Path(__file__).parent
BUDGETS = {
    "device": 45,
    "parity": 50,
    "orthogonality": 45,
    "smoke": 110,
    "attacks": 110,
    "training": 110,
    "layers": 60,
}
"""Step -> seconds; the most useful first."""
MINUTES = 8.8
POLL = 0.2

Report = dict[str, Any]
"""Of one step: ``status`` (done, failed, out of time, crashed), ``seconds``, ``budget``, ``rows``, ``error``."""


def read(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a file of JSON lines; none if there is no file."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def reports(lines: list[dict[str, Any]], budgets: dict[str, float]) -> dict[str, Report]:
    """Return the report of each step, from the lines of all that ran.

    >>> lines = [{"step": "a", "event": "began", "at": 7}, {"step": "a", "case": "x"}]
    >>> reports([*lines, {"step": "a", "event": "done", "at": 9.5}], {"a": 5, "b": 6})
    {'a': {'status': 'done', 'budget': 5, 'rows': [{'case': 'x'}], 'seconds': 2.5}, 'b': {'status': 'not run', ...}}
    """
    found: dict[str, Report] = {}
    for name, budget in budgets.items():
        own = [line for line in lines if line["step"] == name]
        rows = [{key: value for key, value in line.items() if key != "step"} for line in own if "event" not in line]
        events = [line for line in own if "event" in line]
        report: Report = {"status": events[-1]["event"] if events else "not run", "budget": budget, "rows": rows}
        if len(events) > 1:
            report["seconds"] = round(events[-1]["at"] - events[0]["at"], 1)
        if events and "error" in events[-1]:
            report["error"] = events[-1]["error"]
        found[name] = report
    return found


def unfinished(lines: list[dict[str, Any]], budgets: dict[str, float]) -> list[str]:
    """Return the steps that have not ended."""
    return [name for name, report in reports(lines, budgets).items() if report["status"] in ("not run", "began")]


def watch(
    command: Sequence[str],
    folder: Path,
    budgets: dict[str, float],
    *,
    seconds: float,
    save: Callable[[dict[str, Report]], None],
) -> None:
    """Run all steps, and end those that take too long.

    Args:
        command: the child; it gets the names of the steps, and appends its lines to ``folder/rows.jsonl``.
        folder: of this file and of ``device.log``, which gets the child's output.
        budgets: step -> seconds, in the order of running.
        seconds: time for all. A step may run until only the budgets of those after it are left.
        save: is called with the reports again and again.
    """
    path, end = folder / "rows.jsonl", time.time() + seconds
    while pending := unfinished(read(path), budgets):
        with open(folder / "device.log", "a") as log:
            child = subprocess.Popen([*command, *pending], stdout=log, stderr=log, start_new_session=True)
        try:
            while child.poll() is None and time.time() < end - sum(budgets[name] for name in pending[1:]):
                time.sleep(POLL)
                pending = unfinished(read(path), budgets)
                save(reports(read(path), budgets))
        finally:
            late = child.poll() is None
            if late:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        if pending and pending == unfinished(read(path), budgets):
            crash = f"the process ended with status {child.returncode}; device.log has its last words"
            stop(path, pending[0], "out of time" if late else "crashed", "ended from outside" if late else crash)
        save(reports(read(path), budgets))


def stop(path: Path, step: str, status: str, error: str) -> None:
    """Add the line with which a step ends that did not write it itself, instead of one that it began to write."""
    text = path.read_text() if path.exists() else ""
    line = {"step": step, "event": status, "at": time.time(), "error": error}
    path.write_text(text[: text.rfind("\n") + 1] + json.dumps(line) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of device.json and device.log")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"time for all steps; {MINUTES} by default")
    parser.add_argument("--steps", nargs="*", default=list(BUDGETS), choices=BUDGETS, metavar="NAME")
    parser.add_argument("--tiny", action="store_true", help="the same on tiny arrays: does it run?")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    scale = 60 * arguments.minutes / sum(BUDGETS.values())
    budgets = {name: round(scale * BUDGETS[name], 1) for name in BUDGETS if name in arguments.steps}
    head = {"tiny": arguments.tiny, "commit": source_commit() or "unknown"}
    head |= {"date": history.now(), "versions": history.versions()}

    def save(found: dict[str, Report]) -> None:
        write_text(arguments.out / "device.json", json.dumps(head | {"steps": found}, indent=1, ensure_ascii=False))

    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(FOLDER / "device_steps.py"), "--out", folder, *["--tiny"] * arguments.tiny]
        watch([*command, "--steps"], Path(folder), budgets, seconds=60 * arguments.minutes, save=save)
        found = reports(read(Path(folder) / "rows.jsonl"), budgets)
        shutil.copy(Path(folder) / "device.log", arguments.out)
    for name, report in found.items():
        why = report.get("error", "").strip().rpartition("\n")[2]
        print(f"{name}: {report['status']}, {len(report['rows'])} rows, {report.get('seconds', 0)} s {why}".rstrip())
    return int(any(report["status"] != "done" for report in found.values()))


if __name__ == "__main__":
    raise SystemExit(main())
