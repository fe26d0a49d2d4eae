"""Is a run that is killed many times the same as one that is not? SIGKILL of train.py and evaluate.py at random times.

    python benchmarks/kills.py FOLDER [KILLS LONGEST]      # 10 of each script by default; ten minutes on two CPU cores

Runs configs/smoke.py, which uses every part, to its end, and once more with kills, each after at most LONGEST seconds
(12); then the same command goes on. Compares weights, histories and rows of the evaluation, bit for bit, without their
times.
"""

import hashlib
import json
import random
import signal
import subprocess
import sys
from pathlib import Path

from workers import ROOT, finish, rows, start

CONFIG = ROOT / "configs" / "smoke.py"
TIMES = ("seconds", "seconds_per_epoch", "seconds_per_test", "command", "commit", "version")


def killed(script: str, root: Path, count: int, longest: float, random_time: random.Random) -> int:
    """Start a script and kill it after at most ``longest`` seconds, ``count`` times or until it has finished; return
    how often it was killed."""
    for done in range(count):
        process = start(root, script=script, config=CONFIG)
        try:
            process.wait(random_time.uniform(1.0, longest))
            return done
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
    return count


def content(root: Path) -> dict[str, str]:
    """Return a digest of each part of a finished run that must not depend on kills."""
    found = {"rows": hashlib.sha256("\n".join(rows(root)).encode()).hexdigest(), "number of rows": str(len(rows(root)))}
    for path in sorted(root.glob("*/seed*/*")):
        name = str(path.relative_to(root))
        if path.suffix == ".safetensors":
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        if path.name in ("metrics.jsonl", "training.json"):
            lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
            kept = [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]
            found[name] = hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
    return found


def main(folder: Path, kills: int = 10, longest: int = 12) -> None:
    """Compare a run with kills to one without; exit with 1 if they differ."""
    whole, broken, random_time = folder / "whole", folder / "killed", random.Random(0)
    if broken.exists():
        raise SystemExit(f"{broken} exists; name an empty folder")
    whole.mkdir(parents=True, exist_ok=True)
    broken.mkdir()
    for script in ("train.py", "evaluate.py"):
        finish(whole, script=script, config=CONFIG)
        done = killed(script, broken, kills, longest, random_time)
        finish(broken, script=script, config=CONFIG)
        print(f"{script}: killed {done} times", flush=True)
        if done < kills:
            raise SystemExit(f"it had finished before kill {done + 1}; name an empty folder and a smaller LONGEST")
    first, second = content(whole), content(broken)
    different = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
    print(f"{len(first)} parts compared, {first['number of rows']} rows; different: {different or 'none'}")
    if different:
        raise SystemExit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
