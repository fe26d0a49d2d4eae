"""TensorBoard's event files hold the numbers of metrics.jsonl, each once, also after a kill."""

import json
import struct
import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxiqa import models
from jaxiqa.config import Training
from jaxiqa.train import scalars as module
from jaxiqa.train.checkpoint import Checkpoints
from jaxiqa.train.examples import Examples
from jaxiqa.train.loop import fit
from jaxiqa.train.optimizer import make_optimizer
from jaxiqa.train.scalars import scalars
from jaxiqa.train.state import split_model

needs_writer = pytest.mark.skipif(module.find_spec("tensorboardX") is None, reason="tensorboardX is not installed")

NAMES = ("loss", "validation_srocc", "validation_plcc", "seconds")


def row(epoch, **changed):
    numbers = {"loss": 1 / epoch, "validation_srocc": 0.1 * epoch, "validation_plcc": -0.3, "seconds": 2.5}
    return {"epoch": epoch, "step": 3 * epoch, **numbers, **changed}


def points(folder):
    """Return all points (name, step, value) of all event files, in order; check lengths and checksums of records."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    found = []
    for file in sorted((folder / "tensorboard").iterdir()):
        content, place = file.read_bytes(), 0
        while place < len(content):
            header, checked = content[place : place + 8], struct.unpack("<I", content[place + 8 : place + 12])[0]
            assert masked_crc32c(header) == checked
            place, size = place + 12, struct.unpack("<Q", header)[0]
            record, checked = content[place : place + size], struct.unpack("<I", content[place + size :][:4])[0]
            assert masked_crc32c(record) == checked
            place += size + 4
            event = Event.FromString(record)
            found += [(value.tag, event.step, np.float32(value.simple_value)) for value in event.summary.value]
    return found


def expected(rows):
    return [(name, row["step"], np.float32(row[name])) for row in rows for name in NAMES if row[name] is not None]


@needs_writer
def test_every_number_of_every_epoch_is_one_point_and_can_be_read_while_training(tmp_path):
    rows = [row(epoch) for epoch in (1, 2, 3)]
    with scalars(tmp_path, []) as write:
        for done, one in enumerate(rows, 1):
            write(one)
            assert points(tmp_path) == expected(rows[:done])


@needs_writer
def test_a_resumed_run_has_no_points_of_the_epochs_that_it_repeats(tmp_path):
    with scalars(tmp_path, []) as write:
        write(row(1))
        write(row(2, loss=7.0))
    (file,) = (tmp_path / "tensorboard").iterdir()
    file.write_bytes(file.read_bytes()[:-5])  # killed while it was writing
    file.rename(file.with_name("events.out.tfevents.1.another-machine"))
    with scalars(tmp_path, [row(1)]) as write:
        assert points(tmp_path) == expected([row(1)])
        write(row(2))
    assert points(tmp_path) == expected([row(1), row(2)])


@needs_writer
def test_what_an_epoch_lacks_is_left_out(tmp_path):
    with scalars(tmp_path, [row(1, validation_srocc=None, validation_plcc=None)]):
        pass
    assert [name for name, _, _ in points(tmp_path)] == ["loss", "seconds"]


def test_without_the_extra_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with scalars(tmp_path, [row(1)]) as write:
        write(row(2))
    assert list(tmp_path.iterdir()) == []


def test_the_writer_is_imported_only_when_it_writes():
    code = "import sys, jaxiqa, jaxiqa.train.scalars; print('jaxiqa' in sys.modules, 'tensorboardX' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False"], done.stderr[-3000:]


@needs_writer
@pytest.mark.slow
def test_a_killed_and_resumed_run_has_the_points_of_an_uninterrupted_one(tmp_path, monkeypatch):
    """The kill comes after the second epoch's points and before its checkpoint."""
    random = np.random.default_rng(0)
    images = random.uniform(size=(8, 20, 24, 3)).astype(np.float32)
    examples = Examples(lambda index, view: {"image": images[index], "mos": np.float32(index)}, np.arange(8.0))
    parts = split_model(models.build("resnet18", width=8))
    optimizer = make_optimizer(parts.params, Training(3, learning_rate=1e-3, backbone_factor=1.0), steps_per_epoch=2)

    def run(folder):
        options = {"epochs": 3, "batch_size": 4, "loss": "norm_in_norm", "flip": False, "masks": {}, "seed": 0}
        fit(parts, optimizer, examples, examples, folder=folder, devices=jax.local_devices()[:1], **options)
        return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]

    def killed(self, step, state, save=Checkpoints.save):
        if step == 4:
            raise RuntimeError("killed")
        save(self, step, state)

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "save", killed)
        with pytest.raises(RuntimeError, match="killed"):
            run(tmp_path / "killed")
    before = points(tmp_path / "killed")
    assert {step for _, step, _ in before} == {2, 4}
    resumed, whole = run(tmp_path / "killed"), run(tmp_path / "whole")
    for folder, rows in (("killed", resumed), ("whole", whole)):
        assert points(tmp_path / folder) == expected(rows)
    curves = [[point for point in points(tmp_path / name) if point[0] != "seconds"] for name in ("killed", "whole")]
    assert len(curves[0]) == 9
    assert curves[0] == curves[1]
