"""Training a filter and a denoiser: the error falls, interrupted runs resume exactly, errors name the option."""

import hashlib
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from jaxiqa import models, networks
from jaxiqa.cli import train_filter
from jaxiqa.cli.train_filter import Arguments
from jaxiqa.data import load
from jaxiqa.models import Linearity
from jaxiqa.ops.ssim import ssim
from jaxiqa.pretrained import key_map
from jaxiqa.train.filter import keep_best, learn, quality, start

TINY = {"limit": 15, "size": (24, 20), "batch_size": 4}


@pytest.fixture(scope="module")
def metric(tmp_path_factory):
    """The folder of a metric as saved by train.py, filled by NumPy without compilation."""
    folder, random = tmp_path_factory.mktemp("metric"), np.random.default_rng(0)
    model = nnx.eval_shape(lambda: Linearity("resnet18", width=4, taps=("layer1", "layer2"), rngs=nnx.Rngs(0)))
    shapes = {name: variable.shape for name, variable in key_map.parameters(model).items()}
    arrays = {name: np.abs(random.normal(size=shape) / np.prod(shape[:-1]) ** 0.5) for name, shape in shapes.items()}
    key_map.fill(model, arrays, key_map.IDENTITY, source="random numbers")
    model.calibrate(k=1.0, b=0.0, score_range=(-1.0, 1.0))
    models.save(model, folder)
    return folder


def arguments(out: Path, **options) -> Arguments:
    return Arguments(out, **(TINY | options))


@pytest.mark.slow
def test_steps_lower_the_error_and_the_best_weights_are_kept():
    training, using, state = start(networks.DnCNN(depth=3, width=8, rngs=nnx.Rngs(0)))
    wanted = jnp.broadcast_to(jnp.linspace(0.2, 0.8, 16)[:, None], (2, 20, 16, 3))
    given = wanted + 0.2 * np.random.default_rng(0).standard_normal(wanted.shape, np.float32)
    first = state
    np.testing.assert_allclose(quality(using, first, given, wanted), ssim(jnp.clip(given, 0, 1), wanted), rtol=1e-5)
    for _ in range(50):
        state = learn(training, state, given, wanted, 0.01)
    assert quality(using, state, given, wanted).mean() > quality(using, first, given, wanted).mean() + 0.05
    assert not np.allclose(*(jax.tree.leaves(each["stats"])[0] for each in (state, first)))
    kept = keep_best(state, 0.5)
    assert float(kept["best_ssim"]) == 0.5
    jax.tree.map(np.testing.assert_array_equal, kept["best"]["params"], state["params"])
    assert keep_best(kept | {"params": first["params"]}, 0.4)["best"] is kept["best"]
    with pytest.raises(FloatingPointError, match="the SSIM became nan"):
        keep_best(state, float("nan"))


@pytest.mark.slow
def test_a_denoiser_learns_and_resumes_exactly(tmp_path):
    options = {"network": "dncnn", "depth": 3, "width": 8, "sigma": 0.3, "learning_rate": 0.01, "batch_size": 2}
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    best, before = train_filter.train(arguments(whole, epochs=8, **options))
    print(f"SSIM {before:.3f} -> {best:.3f}")
    assert best > before + 0.05
    train_filter.train(arguments(parts, epochs=3, **options))
    assert parts.read_bytes() != whole.read_bytes()
    train_filter.train(arguments(parts, epochs=8, **options))
    assert parts.read_bytes() == whole.read_bytes()

    network = networks.load("dncnn", weights=whole)
    assert len(safetensors.numpy.load_file(whole)) == 8  # three kernels, a bias, one batch norm
    image = jnp.asarray(load("builtin", limit=1)["val"][0]["image"][None], jnp.float32) / 255
    noisy = image + 0.3 * np.random.default_rng(0).standard_normal(image.shape).astype(np.float32)
    assert float(((network(noisy) - image) ** 2).mean()) < 0.5 * float(((noisy - image) ** 2).mean())

    with pytest.raises(ValueError, match="holds a run with different sigma; delete it or choose another OUT"):
        train_filter.train(arguments(whole, epochs=9, **(options | {"sigma": 0.2})))


@pytest.mark.slow
def test_a_filter_learns_from_attacks_on_a_metric(tmp_path, metric):
    out = tmp_path / "fcn.safetensors"
    options = {"model": metric, "attack": "fgsm", "attack_options": ("epsilon=0.1",)}
    first, before = train_filter.train(arguments(out, epochs=1, **options))
    attacked = np.load(tmp_path / "fcn.safetensors.run" / "attacked.npy")
    clean = train_filter.load_images(arguments(out))
    assert attacked.dtype == np.uint8
    change = np.abs(attacked.astype(int) - clean)
    assert change.max() == 26  # round(255 ε) or the border of the box
    assert (change.max((1, 2, 3)) > 0).all()
    later, again = train_filter.train(arguments(out, epochs=12, **options))
    print(f"SSIM {before:.3f} -> {first:.3f} -> {later:.3f}")
    assert again == before
    assert later > first
    made = networks.load("fcn", weights=out)(jnp.asarray(attacked, jnp.float32) / 255)
    assert float(jnp.abs(made).max()) < 1
    digest = hashlib.sha256((metric / "model.safetensors").read_bytes()).hexdigest()
    assert digest in (tmp_path / "fcn.safetensors.run" / "config.json").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "model is missing: fcn is trained on attacks on a metric"),
        ({"out": Path("filter.pth"), "network": "dncnn"}, r"out='filter\.pth' must end in \.safetensors"),
        ({"network": "dncnn", "sigma": -0.1}, r"sigma=-0\.1 is outside"),
        ({"network": "dncnn", "epochs": 0}, "epochs=0 is outside"),
        ({"network": "dncnn", "limit": 1}, "limit=1 is outside"),
    ],
)
def test_bad_options_are_refused_before_training(options, message):
    with pytest.raises(ValueError, match=message):
        train_filter.check(Arguments(**({"out": Path("filter.safetensors")} | options)))


@pytest.mark.slow
def test_a_folder_without_a_metric_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no trained metric"):
        train_filter.train(arguments(tmp_path / "fcn.safetensors", model=tmp_path))


@pytest.mark.slow
def test_the_command_shows_help_trains_and_reports_errors(tmp_path):
    command = [sys.executable, "-m", "jaxiqa", "train-filter"]
    began = time.perf_counter()
    shown = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    print(f"--help took {time.perf_counter() - began:.1f} s")
    assert "--attack-options" in shown
    out = tmp_path / "dncnn.safetensors"
    options = ["--network", "dncnn", "--depth", "3", "--width", "4", "--limit", "10", "--epochs", "1"]
    done = subprocess.run([*command, str(out), *options], capture_output=True, text=True, check=True)
    assert "SSIM" in done.stdout
    assert out.exists()
    failed = subprocess.run([*command, str(out)], capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert "error: model is missing" in failed.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attack": "igsm", "model": Path("run")}, "attack='igsm'"),
        ({"attack_options": ("eps=0.1",), "model": Path("run")}, "option of ifgsm='eps'"),
        ({"network": "dncnn", "depth": 2}, "depth=2"),
    ],
)
def test_a_failed_start_leaves_no_files(options, message, tmp_path):
    wrong = arguments(tmp_path / "f.safetensors", **options)
    with pytest.raises(ValueError, match=message):
        train_filter.check(wrong)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_other_images_are_refused_in_the_same_run_folder(tmp_path):
    given = arguments(tmp_path / "f.safetensors", network="dncnn")
    clean = train_filter.load_images(given)
    train_filter.same_run(given, tmp_path / "run", clean)
    train_filter.same_run(given, tmp_path / "run", clean)
    with pytest.raises(ValueError, match="different images"):
        train_filter.same_run(given, tmp_path / "run", 255 - clean)
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    (tmp_path / "run" / "config.json").write_text(json.dumps({k: v for k, v in stored.items() if k != "images"}))
    with pytest.raises(ValueError, match="different images"):  # earlier runs used another key
        train_filter.same_run(given, tmp_path / "run", clean)


@pytest.mark.slow
def test_a_start_without_a_checkpoint_can_be_corrected(tmp_path):
    given = arguments(tmp_path / "f.safetensors", network="dncnn")
    clean, run = train_filter.load_images(given), tmp_path / "run"
    train_filter.same_run(given, run, clean)
    (run / ".config.json.123.tmp").write_text("half")
    other = replace(given, sigma=0.5)
    train_filter.forget_start(run)
    assert list(run.iterdir()) == []
    train_filter.same_run(other, run, clean)
    (run / "checkpoints" / "1").mkdir(parents=True)  # work
    train_filter.forget_start(run)
    with pytest.raises(ValueError, match="holds a run with different sigma; delete it"):
        train_filter.same_run(given, run, clean)
    for content in ("", "[", "3", "\x00"):
        (run / "config.json").write_text(content)
        with pytest.raises(ValueError, match=r"config\.json is damaged; restore it, delete"):
            train_filter.same_run(given, run, clean)


@pytest.mark.slow
def test_damaged_or_different_attacked_images_are_attacked_again(tmp_path, metric, capsys):
    options = {"model": metric, "attack": "fgsm", "attack_options": ("epsilon=0.1",), "limit": 2}
    given = arguments(tmp_path / "f.safetensors", **options)
    clean, key = train_filter.load_images(given), jax.random.key(0)
    first = train_filter.attacked_images(given, clean, tmp_path, key)
    file = tmp_path / "attacked.npy"
    whole = file.read_bytes()
    np.testing.assert_array_equal(train_filter.attacked_images(given, clean, tmp_path, key), first)
    assert capsys.readouterr().err == ""
    for damaged in (b"", whole[:-1], whole[:200], whole[:500] + bytes([whole[500] ^ 1]) + whole[501:]):
        file.write_bytes(damaged)
        np.testing.assert_array_equal(train_filter.attacked_images(given, clean, tmp_path, key), first)
        assert f"{file} is damaged or for another attack; it is made again" in capsys.readouterr().err
        assert file.read_bytes() == whole
    other = arguments(tmp_path / "f.safetensors", **(options | {"attack_options": ("epsilon=0.02",)}))
    weaker = train_filter.attacked_images(other, clean, tmp_path, key)
    assert np.abs(weaker.astype(int) - clean).max() <= 6 < np.abs(first.astype(int) - clean).max()
