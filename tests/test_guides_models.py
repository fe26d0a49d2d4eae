"""Examples of the guides to metrics, data sets and training: each is installed, registered and used."""

import json
from dataclasses import replace
from pathlib import Path

import guide
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import jaxiqa
from jaxiqa import data, models
from jaxiqa.cli.prepare import Arguments, prepare
from jaxiqa.config import Data, load_config
from jaxiqa.pretrained import key_map
from jaxiqa.train.startup import check_training


@pytest.fixture(scope="module")
def nima(tmp_path_factory):
    with (
        guide.installed("port_a_metric", tmp_path_factory.mktemp("metric")) as module,
        pytest.MonkeyPatch.context() as p,
    ):
        p.setitem(guide.contract("test_every_metric").SMALL, "nima", {"width": 4})
        p.setattr(guide.contract("test_every_metric"), "SIZE", (40, 40))
        yield module


CHANNELS = [4, 4, 8, 8, 16, 16, 16, 32, 32, 32, 32, 32, 32]
PLACES = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
"""Indices of the convolutions among the layers of a VGG-16; the others are ReLUs and poolings."""


def state_dict():
    """Return the state dict of a narrow NIMA in PyTorch's format."""
    random = np.random.default_rng(0)
    shapes = [(cout, cin, 3, 3) for cin, cout in zip([3, *CHANNELS], CHANNELS, strict=False)]
    names = [f"base_model.features_{place}" for place in PLACES] + ["classifier.2"]
    arrays = {}
    for name, shape in zip(names, [*shapes, (10, 32)], strict=True):
        arrays[f"{name}.weight"] = random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)
        arrays[f"{name}.bias"] = random.normal(0, 0.1, shape[0]).astype(np.float32)
    return arrays


def as_in_torch(arrays, images):
    """Compute the forward pass of pyiqa's class, in PyTorch's layout."""
    mean, std = (np.array(v).reshape(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    x = (images.transpose(0, 3, 1, 2) - mean) / std
    for place in range(31):
        if place in PLACES:
            name = f"base_model.features_{place}"
            x = jax.lax.conv(x, arrays[f"{name}.weight"], (1, 1), "SAME") + arrays[f"{name}.bias"][:, None, None]
            x = jnp.maximum(x, 0)
        elif place - 1 not in PLACES:
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
    logits = x.mean((2, 3)) @ arrays["classifier.2.weight"].T + arrays["classifier.2.bias"]
    return np.asarray(jax.nn.softmax(logits)) @ np.arange(1, 11)


@pytest.mark.slow
def test_the_metric_loads_a_state_dict_and_scores_like_the_original(nima, tmp_path):
    arrays, images = state_dict(), guide.contract("test_attacks").make_images((2, 40, 70, 3))
    model = jaxiqa.load("nima", arrays, width=4)
    np.testing.assert_allclose(jax.jit(lambda x: model(x))(images), as_in_torch(arrays, np.asarray(images)), rtol=1e-5)
    assert model.score_range == (1.0, 10.0)
    assert set(model.features(images, ("logits", "relu4_3"))) == {"logits", "relu4_3"}
    np.savez(tmp_path / "nima.npz", **{f"params.{key}": array for key, array in arrays.items()})
    again = jaxiqa.load("nima", tmp_path / "nima.npz", width=4)
    np.testing.assert_array_equal(again.classifier.kernel[...], arrays["classifier.2.weight"].T)
    wrong = {key: array for key, array in arrays.items() if key != "classifier.2.bias"} | {"head.weight": np.ones(2)}
    with pytest.raises(ValueError, match=r"head\.weight: unknown\n  classifier\.bias: missing"):
        jaxiqa.load("nima", wrong, width=4)
    with pytest.raises(FileNotFoundError, match=r"published weights of nima \('ava'\)"):
        jaxiqa.load("nima", "koniq")
    with pytest.raises(ValueError, match="at least 32 pixels"):
        model(images[:, :31])


@pytest.mark.slow
def test_the_metric_is_hardened_saved_and_loaded(nima, tmp_path):
    guide.contract("test_every_metric").test_a_metric_returns_its_options("nima")
    model = jaxiqa.load("nima", state_dict(), width=4)
    images = guide.contract("test_attacks").make_images((1, 40, 40, 3))
    before = jax.jit(lambda x: model(x))(images)
    models.harden(model, "after:relu5_3", mid=2, rngs=nnx.Rngs(0))
    models.save(model, tmp_path)
    loaded = models.load("nima", tmp_path)
    assert [block.kind for block in loaded.insertions] == ["robust_block"]
    scores = jax.jit(lambda score, x: score(x))(models.score_fn(loaded, (40, 40)), images)
    np.testing.assert_allclose(scores, jax.jit(lambda x: model(x))(images), rtol=1e-4)
    assert not np.allclose(scores, before)


@pytest.mark.slow
def test_the_metric_passes_the_tests_of_every_metric(nima, tmp_path, monkeypatch):
    guide.contract("test_every_metric").test_any_metric_trains_saves_and_loads("nima", True, tmp_path)
    reports = guide.contract("test_published_report")
    monkeypatch.setitem(reports.OPTIONS, "nima", ({"width": 4}, (40, 56)))
    monkeypatch.setattr(reports, "UNBOUNDED", (*reports.UNBOUNDED, "nima"))
    reports.test_every_published_metric_has_a_report("nima")


@pytest.fixture
def kadid(tmp_path):
    """Create a folder like KADID-10k's, with 10 reference images."""
    with guide.installed("add_a_data_set", tmp_path):
        (tmp_path / "images").mkdir()
        rows, random = ["dist_img,ref_img,dmos,var"], np.random.default_rng(0)
        for reference in range(1, 11):
            for level in range(1, 4):
                name = f"I{reference:02}_01_{level:02}.png"
                Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8)).save(tmp_path / "images" / name)
                rows.append(f"{name},I{reference:02}.png,{5 - level}.57,0.5")
        (tmp_path / "dmos.csv").write_text("\n".join(rows) + "\n")
        yield tmp_path


def test_the_data_set_passes_the_contract_and_splits_by_reference_image(kadid):
    guide.contract("test_datasets").test_every_data_set_passes_the_contract({"name": "kadid10k", "source": str(kadid)})
    splits = data.load("kadid10k", source=str(kadid))
    assert {part: len(split) for part, split in splits.items()} == {"train": 18, "val": 6, "test": 6}
    references = [{name[:3] for name in split.ids} for split in splits.values()]
    assert len(set.union(*references)) == sum(map(len, references)) == 10
    assert data.load("kadid10k", source=str(kadid), seed=1)["val"].ids != splits["val"].ids
    example = splits["val"][0]
    assert example["mos"] == np.float32(5.57 - int(example["id"][-5]))
    assert splits["val"].images([0, 2]).shape == (2, 6, 8, 3)
    prepare(Arguments("kadid10k", kadid / "out", kadid))
    prepared = data.load("kadid10k", source=str(kadid / "out"))
    assert {part: split.ids for part, split in prepared.items()} == {part: split.ids for part, split in splits.items()}
    np.testing.assert_array_equal(prepared["test"].read(0), splits["test"].read(0))


def test_all_damaged_rows_of_the_data_set_are_in_one_error(kadid):
    rows = (kadid / "dmos.csv").read_text().splitlines()
    rows[2], rows[4], rows[6] = rows[2].replace("3.57", "7.1"), "I02_01_01.png", rows[6].replace("I02_01_03", "I99")
    (kadid / "dmos.csv").write_text("\n".join([*rows, rows[1]]) + "\n")
    with pytest.raises(ValueError, match=r"dmos\.csv: 4 problems") as error:
        data.load("kadid10k", source=str(kadid))
    for fault in (
        "row 3: I01_01_02.png has the score '7.1'",
        "row 5 has 1 value",
        "row 7: I99.png is missing",
        "twice",
    ):
        assert fault in str(error.value)
    smoke = load_config(guide.ROOT / "configs" / "smoke.py")
    with pytest.raises(ValueError, match=r"data\.options: kadid10k has no option 'sed'"):
        check_training(replace(smoke, data=Data("kadid10k", options={"sed": 1})))


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """Run the training example; return the names that it defines, and its folder."""
    folder, scope = tmp_path_factory.mktemp("training"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (example,) = guide.blocks("how_training_works")
        exec(compile(example, "how_training_works.md", "exec"), scope)
    return scope, folder


@pytest.mark.slow
def test_the_training_example_learns_and_frozen_parameters_stay(session):
    scope, folder = session
    losses = [row["loss"] for row in scope["rows"]]
    assert losses[-1] < 0.8 * losses[0]
    assert sorted(scope["parts"].params["backbone"]["stage"]) == ["layer4.0", "layer4.1"]
    assert "layer3.1" in scope["parts"].fixed["backbone"]["stage"]
    assert "bias" in scope["parts"].fixed["dr6"]["linear"][0]  # a batch norm follows
    stored, kept = key_map.parameters(scope["again"]), key_map.parameters(scope["trained"])
    assert stored.keys() == kept.keys()
    assert all(np.array_equal(stored[name][...], kept[name][...]) for name in kept)
    np.testing.assert_array_equal(scope["again"].calibration[...], scope["trained"].calibration[...])
    card = json.loads((folder / "run" / "model.json").read_text())
    (folder / "run" / "model.json").write_text(json.dumps(card | {"k": 2 * card["k"]}))
    with pytest.raises(ValueError, match="was changed after it was written"):
        models.load_run(folder / "run")


@pytest.mark.slow
def test_training_resumes_exactly_from_the_last_intact_checkpoint(session, caplog):
    scope, folder = session
    damaged = max(
        (folder / "run" / "checkpoints" / "8" / "default" / "d").iterdir(), key=lambda file: file.stat().st_size
    )
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    again = scope["fit"](
        *(scope[name] for name in ("parts", "optimizer", "train", "validation")),
        folder=folder / "run",
        **scope["recipe"],
    )
    assert "checkpoints/8 is not used" in caplog.text
    jax.tree.map(np.testing.assert_array_equal, again.params, scope["result"].params)


@pytest.mark.slow
def test_attacked_and_penalised_training_runs(session, monkeypatch):
    scope, folder = session
    monkeypatch.chdir(folder)
    (example,) = guide.blocks("how_training_works", "py")
    exec(compile(example, "how_training_works.md", "exec"), dict(scope))
    rows = [json.loads(line) for line in (Path("hard") / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 4
    assert rows[0]["loss"] != scope["rows"][0]["loss"]
    assert rows[-1]["loss"] < rows[0]["loss"]
