"""A history of what the benchmarks measured, and the comparison of two entries.

    python benchmarks/history.py                      # the entries: commit, device, date, versions
    python benchmarks/history.py layers               # the last two entries of layers.jsonl on the same device
    python benchmarks/history.py layers 1a2b3c 4d5e6f # two commits

Every benchmark appends its numbers to `history/NAME.jsonl`, one line for each case. The lines of one commit on one
device are an entry. Compare entries of the same device only. If the times of the other side (PyTorch) changed too, the
machine has changed, not the code.
"""

import argparse
import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from statistics import geometric_mean
from typing import Any

FOLDER = Path(__file__).parent / "history"
PACKAGES = ("jax", "jaxlib", "flax", "numpy", "torch", "foolbox", "torchattacks")


def append(
    benchmark: str,
    device: str,
    case: str,
    numbers: Mapping[str, float],
    *,
    folder: Path = FOLDER,
    measured: Mapping[str, Any] | None = None,
) -> None:
    """Add one line: the numbers of one case, with commit, date and versions.

    Args:
        benchmark: name of the benchmark and of the file.
        device: the device in words; what follows the first comma (versions, batch size) is left out.
        case: what was measured, such as "64, 32x32"; unique in an entry (of two lines the later one counts).
        numbers: program -> seconds.
        folder: where the files are.
        measured: "commit", "date" and "versions" of another machine's measurement; by default those of here and now.
    """
    folder.mkdir(exist_ok=True)
    origin = measured or {"commit": commit(), "date": now(), "versions": versions()}
    line = {
        "commit": origin["commit"],
        "date": origin["date"],
        "device": device.partition(",")[0],
        "versions": origin["versions"],
        "case": case,
        "numbers": dict(numbers),
    }
    with open(folder / f"{benchmark}.jsonl", "a") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def commit() -> str:
    """Return the current commit; "+" after it means that files are changed."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "../jaxiqa", "*.py")
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + "+" * bool(changed)


def versions() -> dict[str, str]:
    """Return the versions of those `PACKAGES` that are installed."""
    installed = {distribution.metadata["Name"] for distribution in importlib.metadata.distributions()}
    return {name: importlib.metadata.version(name) for name in PACKAGES if name in installed}


def entries(benchmark: str, *, folder: Path = FOLDER) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Return (commit, device) -> lines, oldest first.

    Raises:
        FileNotFoundError: the benchmark has no history; the message lists those that have one.
        ValueError: a line is damaged; the message gives its number.
    """
    path = folder / f"{benchmark}.jsonl"
    if not path.exists():
        raise FileNotFoundError(
            f"{benchmark} has no history; choose from {', '.join(names(folder=folder)) or '(none)'}"
        )
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for number, text in enumerate(path.read_text().splitlines(), 1):
        try:
            line = json.loads(text)
            found.setdefault((line["commit"], line["device"]), []).append(line)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: line {number} is damaged: {error!r}") from error
    return found


def names(*, folder: Path = FOLDER) -> list[str]:
    """Return the benchmarks that have a history."""
    return sorted(path.stem for path in folder.glob("*.jsonl"))


def choose(benchmark: str, old: str | None, new: str | None, *, folder: Path = FOLDER) -> tuple[Any, Any]:
    """Return the keys of two entries on one device: the given commits, or the last entry and the one before it.

    Raises:
        ValueError: there are no two such entries.
    """
    keys = list(entries(benchmark, folder=folder))
    matching = [key for key in keys if new is None or key[0].startswith(new)]
    if not matching:
        raise ValueError(f"{benchmark} has no entry of commit {new}; it has {', '.join(key[0] for key in keys)}")
    last = matching[-1]
    earlier = [key for key in keys if key[1] == last[1] and key != last]
    before = (
        [key for key in earlier if keys.index(key) < keys.index(last)]
        if old is None
        else [key for key in earlier if key[0].startswith(old)]
    )
    if not before:
        what = "other entry" if old is None else f"entry of commit {old}"
        raise ValueError(f"{benchmark} has no {what} on {last[1]}; measure it there, or name other commits")
    return before[-1], last


def compare(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> str:
    """Return a table: case, program, both numbers and new / old, and the mean ratio of each program.

    >>> line = lambda seconds: {"case": "64", "numbers": {"jaxiqa": seconds, "torch": 2.0}}
    >>> print(compare([line(1.0)], [line(0.5)]))
    64 | jaxiqa | 1 | 0.5 | 0.50
    64 | torch | 2 | 2 | 1.00
    mean | jaxiqa | | | 0.50
    mean | torch | | | 1.00
    """
    earlier = {line["case"]: line["numbers"] for line in old}
    lines, ratios = [], {}
    for case, numbers in {line["case"]: line["numbers"] for line in new}.items():
        for program, seconds in numbers.items():
            before = earlier.get(case, {}).get(program)
            if before is None:
                lines.append(f"{case} | {program} | | {seconds:.3g} | new")
                continue
            ratios.setdefault(program, []).append(seconds / before)
            lines.append(f"{case} | {program} | {before:.3g} | {seconds:.3g} | {seconds / before:.2f}")
    lines += [f"mean | {program} | | | {geometric_mean(found):.2f}" for program, found in ratios.items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", nargs="?", help=f"one of {', '.join(names())}; without it, list all entries")
    parser.add_argument("commits", nargs="*", metavar="COMMIT", help="OLD, or OLD and NEW")
    arguments = parser.parse_args()
    if len(arguments.commits) > 2:
        parser.error("give at most two commits: OLD NEW")
    if arguments.benchmark is None:
        for name in names():
            for (commit_of, device), lines in entries(name).items():
                used = ", ".join(f"{package} {version}" for package, version in lines[-1]["versions"].items())
                print(f"{name} | {commit_of} | {device} | {lines[-1]['date'][:10]} | {len(lines)} cases | {used}")
        return
    try:
        old, new = choose(arguments.benchmark, *[*arguments.commits, None, None][:2])
        found = entries(arguments.benchmark)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    print(f"{new[1]}: seconds at {old[0]} | at {new[0]} | new / old")
    print(compare(found[old], found[new]))


if __name__ == "__main__":
    main()
