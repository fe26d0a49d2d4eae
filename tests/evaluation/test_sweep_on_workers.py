"""A sweep gives the same rows whoever computes its units: this process, Ray's workers, or the nodes of a cluster."""

import os
import pickle
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from own_purifiers import evaluated, score

from jaxiqa.config import Adaptive, Align, Attack, Certifier, Data, Defense, Evaluation, Ranks
from jaxiqa.evaluation.attack_stage import run_attacks
from jaxiqa.evaluation.certify_stage import certify_all
from jaxiqa.evaluation.defense_stage import defend_all
from jaxiqa.evaluation.evaluated_model import EvaluatedModel
from jaxiqa.evaluation.images import Held
from jaxiqa.evaluation.rank_stage import RankPlan, attack_order
from jaxiqa.results.rows import FILES, ModelRow, ResultRow, StoredRow

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import workers  # noqa: E402


@pytest.fixture
def evaluation(file):
    return Evaluation(
        data=Data("builtin"),
        attacks={
            "IFGSM": Attack("ifgsm", (2 / 255, 8 / 255), {"steps": 2}),
            "visible": Attack("ifgsm", options={"steps": 2}, aligned=Align("psnr", ladder=(0.002, 0.1), images=2)),
            "Square": Attack("square", (8 / 255,), {"queries": 10}),
            "start": Attack("pgd", (8 / 255,), {"steps": 1, "step_size": 1e-6}),  # almost only its random start
            "UAP": Attack(
                "uap", (8 / 255,), {"epochs": 1}, fit_on=Data("builtin", options={"size": (20, 28)}, limit=2)
            ),
        },
        defenses={"shift": Defense(f"{file}:Shift", {"amount": 0.2}), "mirror": Defense(f"{file}:Mirror")},
        adaptive=Adaptive(("IFGSM", "start"), strengths="strongest", draws=2),
        certifiers={"MS": Certifier("ms", {"n": 20, "alpha": 0.1}, attacks=("IFGSM",), images=2)},
    )


class Elsewhere:
    """Computes units as other processes do: from a pickled job, in another order, some twice."""

    def __init__(self):
        self.units = []

    def __call__(self, function, job, units):
        units = list(units)
        self.units += [(function.__name__, unit) for unit in units]
        for number, unit in enumerate(reversed(units)):
            sent = pickle.dumps((function, job, unit))
            for _ in range(1 + number % 2):
                called, theirs, part = pickle.loads(sent)
                result = called(theirs, part)
            yield pickle.loads(pickle.dumps(result))


def run(root, evaluation, split, batch=2, **compute):
    made = replace(evaluated(root), batch=batch)
    made.__dict__["score_fn"] = score  # replaces a trained model
    made.add([ModelRow("m", 0, 10, -100.0, 100.0, 0.8, 1.5, 0.2, 0)])
    attack_order(made, [], RankPlan(split, None, Ranks((2 / 255,), images=4, queries=0)), **compute)
    run_attacks(made, evaluation, split, store=True, examples=2, **compute)
    defend_all(made, evaluation, split, **compute)
    certify_all(made, evaluation, split, **compute)
    found = {kind: made.rows(kind) for kind in FILES}
    return {
        kind: sorted((replace(row, seconds=0.0) if hasattr(row, "seconds") else row for row in rows), key=repr)
        for kind, rows in found.items()
    }


def examples(root):
    return {path.relative_to(root): path.read_bytes() for path in (root / "examples").rglob("*.npz")}


@pytest.mark.slow
def test_units_that_others_compute_in_any_order_give_the_same_rows(tmp_path, evaluation, split, monkeypatch):
    monkeypatch.setattr(EvaluatedModel, "score_fn", staticmethod(score))  # of unpickled models
    elsewhere = Elsewhere()
    alone = run(tmp_path / "alone", evaluation, split)
    others = run(tmp_path / "others", evaluation, split, compute=elsewhere)
    assert others == alone
    assert all(alone[kind] for kind in FILES if kind.__name__ not in ("PredictionRow", "MaskingRow"))
    assert examples(tmp_path / "others").keys() == examples(tmp_path / "alone").keys()
    # Five images in batches of two, by five attacks.
    blocks = [unit for name, unit in elsewhere.units if name == "attack_block" and hasattr(unit, "strengths")]
    assert [(block.attack, block.first) for block in blocks] == [
        (attack, first) for attack in evaluation.attacks for first in (0, 2, 4)
    ]
    assert [len(block.rows) for block in blocks[:6]] == [4, 4, 2, 6, 6, 3]
    again = Elsewhere()
    run_attacks(evaluated(tmp_path / "others"), evaluation, split, store=True, examples=2, compute=again)
    defend_all(evaluated(tmp_path / "others"), evaluation, split, compute=again)
    certify_all(evaluated(tmp_path / "others"), evaluation, split, compute=again)
    assert [name for name, _ in again.units] == ["_align"]  # nothing else was missing


@pytest.mark.slow
def test_rows_do_not_depend_on_the_size_of_units(tmp_path, evaluation, split):
    """Random attacks and random defenses, on five images in batches of two and of three."""
    two, three = (run(tmp_path / str(size), evaluation, split, batch=size) for size in (2, 3))
    assert {kind: len(rows) for kind, rows in two.items()} == {kind: len(rows) for kind, rows in three.items()}
    for kind in two.keys() - {StoredRow}:  # a digest of pixels may differ by rounding
        for a, b in zip(two[kind], three[kind], strict=True):
            for name, value in vars(a).items():
                expected = pytest.approx(value, rel=1e-3, abs=1e-3) if isinstance(value, float) else value
                assert getattr(b, name) == expected, (a, b)


def test_only_blocks_with_missing_rows_are_units(tmp_path, evaluation, split):
    less = replace(evaluation, attacks={"IFGSM": evaluation.attacks["IFGSM"]})
    first = split.select(range(3))
    run_attacks(evaluated(tmp_path), less, first, store=False, examples=0)
    seen = []

    def recorded(function, job, units):
        for unit in units:
            seen.append(unit)
            yield function(job, unit)

    run_attacks(evaluated(tmp_path), less, split, store=False, examples=0, compute=recorded)
    assert [block.first for block in seen] == [2, 4]
    assert seen[0].rows == {(split.ids[3], 2 / 255), (split.ids[3], 8 / 255)}
    assert len(evaluated(tmp_path).rows(ResultRow)) == 10


def test_images_in_memory_are_not_sent_to_others(split):
    held = Held(split.read)
    for index in range(5):
        held(index)
    assert pickle.loads(pickle.dumps(held)).images == {}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    pytest.importorskip("ray")
    root = workers.fresh(tmp_path_factory.mktemp("whole") / "run")
    workers.finish(root)
    return workers.rows(root)


@pytest.mark.slow
def test_two_workers_give_the_rows_of_one_process(whole, tmp_path):
    root = workers.fresh(tmp_path / "run")
    workers.finish(root, "--workers", "2")
    assert workers.rows(root) == whole
    assert "Square" in "".join(whole)
    kinds = {row.partition(".")[0] for row in whole}
    assert kinds == {name.removesuffix(".jsonl") for name in FILES.values()}


@pytest.mark.slow
def test_killed_workers_and_drivers_change_no_row(whole, tmp_path):
    root = workers.fresh(tmp_path / "run")
    killed = workers.kill_at_random(root, 3, 1)
    assert killed == (3, 1)
    assert workers.rows(root) == whole
    assert "a worker died and is replaced" in (root / "log.txt").read_text()
    assert not [path for path in root.rglob("*") if "tmp" in path.name]


@pytest.mark.slow
def test_ctrl_c_stops_program_and_workers(tmp_path):
    root = workers.fresh(tmp_path / "run")
    driver = workers.start(root, "--workers", "2")
    assert workers.wait_for((root / "results.jsonl").exists, driver)
    processes = workers.workers_of(driver.pid)
    assert len(processes) == 2
    driver.send_signal(signal.SIGINT)
    assert driver.wait(60) == 130
    log = (root / "log.txt").read_text()
    assert log.strip().splitlines()[-1] == "stopped; finished batches are kept; run the same command again to continue"
    assert "Traceback" not in log
    until = time.monotonic() + 30
    while any(Path(f"/proc/{process}").exists() for process in processes):
        assert time.monotonic() < until
        time.sleep(0.1)


class Cluster:
    """Two nodes of a Ray cluster on this machine, each started by `ray start`; they share a token."""

    def __init__(self):
        import ray

        self.folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # sockets need short paths
        with socket.socket() as probe:
            probe.bind(("", 0))
            port = probe.getsockname()[1]
        self.address = f"{ray.util.get_node_ip_address()}:{port}"
        self.nodes = []

    def start(self):
        port = self.address.rpartition(":")[2]
        self.add("--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={self.folder}")
        self.wait(1)
        self.add(f"--address={self.address}")
        self.wait(2)

    def add(self, *words):
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *words, "--num-cpus=1", "--block"]
        environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT)}
        with open(f"{self.folder}/log{len(self.nodes)}.txt", "w") as log:
            self.nodes.append(subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log))

    def wait(self, count):
        code = "import sys, ray; ray.init(sys.argv[1]); print('nodes:', len(ray.nodes()))"
        until = time.monotonic() + 120
        while True:
            host, port = self.address.split(":")
            with suppress(OSError):
                socket.create_connection((host, int(port)), timeout=1).close()
                made = subprocess.run([sys.executable, "-c", code, self.address], capture_output=True, text=True)
                if f"nodes: {count}" in made.stdout:
                    return
                assert time.monotonic() < until, made.stderr
            assert time.monotonic() < until
            time.sleep(0.2)

    def kill(self, node):
        for process in [*workers.children(node.pid), node.pid]:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        node.wait()

    def stop(self):
        for node in self.nodes:
            if node.poll() is None:
                self.kill(node)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture
def cluster(monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    found = Cluster()
    try:
        found.start()
        yield found
    finally:
        found.stop()


@pytest.mark.slow
def test_a_cluster_of_two_nodes_gives_the_same_rows_also_if_one_is_lost(whole, tmp_path, cluster):
    root = workers.fresh(tmp_path / "run")
    at_work = lambda: [len(workers.workers_of(node.pid)) for node in cluster.nodes]  # noqa: E731
    driver = workers.start(root, "--ray", cluster.address)
    assert workers.wait_for(lambda: at_work() == [1, 1], driver), (root / "log.txt").read_text()
    assert workers.wait_for((root / "results.jsonl").exists, driver), (root / "log.txt").read_text()
    cluster.kill(cluster.nodes[1])
    assert driver.wait(400) == 0, (root / "log.txt").read_text()
    assert workers.rows(root) == whole
    assert "a worker died and is replaced" in (root / "log.txt").read_text()
