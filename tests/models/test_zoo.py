"""The metrics that come with the package: they load and score without a file and without a network."""

import json
import os
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxiqa
from jaxiqa import models
from jaxiqa.models.zoo import DEFAULT, SHIPPED, folder_of

X = jax.random.uniform(jax.random.key(0), (2, 96, 128, 3))
MEGABYTES = 12


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_it_scores_images_of_any_size_on_the_scale_of_its_card(name):
    metric = jaxiqa.load(name)
    scores = np.asarray(metric(X))
    low, high = json.loads((folder_of(name) / "model.json").read_text())["score_range"]
    assert scores.shape == (2,)
    assert metric.score_range == (low, high)
    assert np.isfinite(scores).all()


def test_all_of_them_are_small_and_have_a_card():
    folder = folder_of(DEFAULT).parent
    assert {path.name for path in folder.iterdir() if path.is_dir()} == set(SHIPPED)
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= MEGABYTES * 2**20
    for name in SHIPPED:
        assert f'jaxiqa.load("{name}")' in (folder_of(name) / "README.md").read_text()


def test_the_page_quotes_the_cards():
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    for name in SHIPPED:
        card = (folder_of(name) / "README.md").read_text()
        (found,) = re.findall(r"\| as shipped \| (\d\.\d+) \|", card)
        (row,) = (line for line in page.splitlines() if f"zoo/{name}/README.md" in line)
        assert f"| {float(found):.3f} |".replace("0.", ".") in row


def test_errors():
    with pytest.raises(ValueError, match="jaxiqa-base has weights of its own and takes no options, but got weights, k"):
        jaxiqa.load("jaxiqa-base", weights="x.pth", k=1)
    with pytest.raises(ValueError, match=r"linearity needs weights: a file.*These need none: jaxiqa-base"):
        jaxiqa.load("linearity")
    with pytest.raises(ValueError, match="name='jaxiqa-bas' is not allowed; choose from 'jaxiqa-base'"):
        jaxiqa.load("jaxiqa-bas")


@pytest.mark.slow
def test_its_name_is_allowed_where_a_run_is():
    loaded = jaxiqa.load("linearity", weights="jaxiqa-base")
    np.testing.assert_array_equal(loaded(X), jaxiqa.load("jaxiqa-base")(X))
    with pytest.raises(ValueError, match="holds a trained lipschitz_iqa, not a linearity"):
        jaxiqa.load("linearity", weights="jaxiqa-certified")


@pytest.mark.slow
def test_photographs_keep_their_order():
    """Guards against files from another version: the shipped scores agree with human scores of real photographs."""
    root = os.environ.get("JAXIQA_SHARED")
    if not root:
        pytest.skip("needs JAXIQA_SHARED")
    from jaxiqa import data, models
    from jaxiqa.measures.correlation import srocc

    split = data.load("clive", source=str(Path(root) / "data" / "clive"), limit=64, verify=False)["val"]
    images = jnp.stack([jnp.asarray(split[i]["image"][:480, :480], jnp.float32) / 255 for i in range(64)])
    for name in SHIPPED:
        scores = np.asarray(jax.jit(lambda score, x: score(x))(models.score_fn(jaxiqa.load(name)), images))
        assert srocc(scores, split.mos) > 0.4, name


@pytest.mark.parametrize("damage", [lambda content: content[:-200], lambda content: b"\0" * 20 + content[20:]])
def test_a_damaged_packed_file_is_named(tmp_path, damage):
    shutil.copytree(folder_of("jaxiqa-certified"), tmp_path / "copy")
    file = tmp_path / "copy" / "model.safetensors.gz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r"model.safetensors.gz is damaged"):
        models.load_run(tmp_path / "copy")
