import json

import jax
import numpy as np
import pytest
import tiny
from flax import nnx

from jaxiqa.models import convert, harden, load_run, save

X = jax.random.uniform(jax.random.key(0), (2, 40, 56, 3))


@pytest.fixture(scope="module")
def hardened():
    model = tiny.metric(taps=("layer2", "layer4"), input_size=(40, 56))
    harden(model, "after:layer2", mid=4, low_pass=0.5, shrink=0.1, unitary="cayley", rngs=nnx.Rngs(1))
    harden(model, "before:layer4.1", "bottleneck", mid=3, padding="VALID", rngs=nnx.Rngs(2))
    model.calibrate(k=1 / 3, b=-0.1, score_range=(-1.5, 7.7))
    return model


def test_what_was_saved_comes_back(hardened, tmp_path):
    hardened.set_mode(head="train")
    save(hardened, tmp_path / "new" / "folder")
    hardened.set_mode()
    loaded = load_run(tmp_path / "new" / "folder")
    saved, found = convert.parameters(hardened), convert.parameters(loaded)
    assert saved.keys() == found.keys()
    for name, variable in saved.items():
        np.testing.assert_array_equal(found[name][...], variable[...])
    assert loaded.score_range == hardened.score_range
    assert loaded.backbone.order == hardened.backbone.order
    assert nnx.split(loaded)[0] == nnx.split(hardened)[0]
    np.testing.assert_array_equal(loaded(X), hardened(X))


def test_saving_again_replaces_the_model_and_leaves_other_files(hardened, tmp_path):
    (tmp_path / "metrics.jsonl").write_text("{}")
    other = tiny.metric()
    other.calibrate(k=1.0, b=0.0, score_range=(0.0, 1.0))
    save(other, tmp_path)
    save(hardened, tmp_path)
    assert load_run(tmp_path).taps == ("layer2", "layer4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "model.json", "model.safetensors"]


def test_an_uncalibrated_model_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="no score_range yet"):
        save(tiny.metric(), tmp_path)


def test_damage_is_named(hardened, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}.*model.json"):
        load_run(tmp_path)
    save(hardened, tmp_path)
    card, weights = tmp_path / "model.json", tmp_path / "model.safetensors"
    text, content = card.read_text(), weights.read_bytes()

    flipped = bytearray(content)
    flipped[-5] ^= 1
    weights.write_bytes(flipped)
    with pytest.raises(ValueError, match=r"model.safetensors does not match the digest"):
        load_run(tmp_path)
    weights.write_bytes(content[:-100])
    with pytest.raises(ValueError, match=r"model.safetensors.*damaged"):
        load_run(tmp_path)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"model.safetensors"):
        load_run(tmp_path)
    weights.write_bytes(content)

    card.write_text(text[:40])
    with pytest.raises(ValueError, match=r"model.json.*damaged"):
        load_run(tmp_path)
    card.write_text(json.dumps({**json.loads(text), "format": 99}))
    with pytest.raises(ValueError, match=r"model.json.*99"):
        load_run(tmp_path)
    card.write_text(json.dumps({**json.loads(text), "width": 16}))
    with pytest.raises(ValueError, match=r"model.safetensors does not fit:\n .*which does not fit"):
        load_run(tmp_path)
