"""Metrics exported as StableHLO: the same scores when read back, with symbolic batch and size where possible."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from jaxiqa import models
from jaxiqa.cli import export as command
from jaxiqa.models import MODELS, export, harden, load_exported, score_fn
from jaxiqa.models.exporting import export_widest, save_exported


def images(count, size):
    return jax.random.uniform(jax.random.key(count), (count, *size, 3))


def scored(score, x):
    return np.asarray(jax.jit(lambda x: score(x))(x))


@pytest.mark.slow
def test_a_hardened_metric_loads_back_with_any_batch_size(tmp_path):
    model = tiny.metric()
    harden(model, "after:layer3", mid=4, rngs=nnx.Rngs(1))
    score = score_fn(model, (48, 40))
    exported, shape = export_widest(score, (48, 40), 1)
    assert shape == "b, 48, 40, 3"
    save_exported(exported, tmp_path / "model.jaxexport")
    loaded = load_exported(tmp_path / "model.jaxexport")
    for count in (1, 3):
        x = images(count, (48, 40))
        np.testing.assert_allclose(loaded(x), scored(score, x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_batch_and_size_are_symbolic_if_the_protocol_resizes():
    score = score_fn(tiny.filled(nnx.eval_shape(lambda: MODELS["metaiqa"].metric(width=8, rngs=nnx.Rngs(0))), gain=1.0))
    exported, shape = export_widest(score, None, 1)
    assert shape == "b, h, w, 3"
    for x in (images(2, (230, 250)), images(1, (300, 224))):
        np.testing.assert_allclose(exported.call(x), scored(score, x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_size_that_the_program_depends_on_must_be_given():
    with pytest.raises(ValueError, match="--size"):
        export_widest(score_fn(tiny.metric()), None, 1)
    with pytest.raises(ValueError, match="depends on a size that is left open"):
        export(score_fn(tiny.metric()))


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "x.jaxexport"
    path.write_bytes(b"no export")
    with pytest.raises(ValueError, match=r"x\.jaxexport is damaged"):
        load_exported(path)
    with pytest.raises(FileNotFoundError):
        load_exported(tmp_path / "missing")


@pytest.mark.slow
def test_the_command_writes_and_reads_back(tmp_path, capsys):
    model = tiny.metric()
    model.calibrate(k=2.0, b=1.0, score_range=(0.0, 1.0))
    models.save(model, tmp_path / "run")
    out = tmp_path / "model.jaxexport"
    command.main(["linearity", str(out), "--weights", str(tmp_path / "run"), "--size", "40", "56"])
    assert "b, 40, 56, 3" in capsys.readouterr().out
    x = images(2, (40, 56))
    np.testing.assert_allclose(load_exported(out)(x), scored(score_fn(model), x), rtol=1e-4, atol=1e-4)
    with pytest.raises(SystemExit, match="--size"):
        command.main(["linearity", str(out), "--weights", str(tmp_path / "run")])
    assert jnp.isfinite(load_exported(out)(x)).all()  # the earlier file is still there
