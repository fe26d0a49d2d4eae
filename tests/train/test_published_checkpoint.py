"""From a published checkpoint to a fine-tuned model on disk: loaded, hardened or pruned, trained for two steps, saved.

The weights follow the rule of the reference data, and are in a file as PyTorch writes it, under their original names.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
from flax import nnx
from torch_writer import tensor, torch_zip

from jaxiqa import models
from jaxiqa.config import Block, Data, Evaluation, Experiment, Model, Prune, Training, Variant
from jaxiqa.pretrained import key_map
from jaxiqa.train import experiment as program
from jaxiqa.train.startup import check_files, check_training
from jaxiqa.train.variant import new_metric

RATE = 1e-5
TRAINING = Training(epochs=1, batch_size=2, learning_rate=RATE, backbone_factor=1.0, weight_decay=0.0)
BLOCK = Block("after:layer3", options={"mid": 8})


@dataclass(frozen=True)
class Case:
    """A metric, its options, the size of images, and the changes of the variant."""

    name: str
    size: tuple[int, int]
    variant: Variant
    options: tuple = ()

    def __str__(self):
        return f"{self.name}-{'pruned' if self.variant.prune else 'hardened' if self.variant.block else 'plain'}"


ONE_CROP = replace(TRAINING, crops=1)
CASES = [
    Case("paq2piq", (96, 128), Variant(TRAINING, block=BLOCK)),
    Case("paq2piq", (96, 128), Variant(TRAINING, prune=Prune(0.1))),
    Case("hyperiqa", (240, 250), Variant(ONE_CROP, block=BLOCK), (("crops", 1),)),
    Case("hyperiqa", (240, 250), Variant(ONE_CROP, prune=Prune(0.1)), (("crops", 1),)),
]


@pytest.fixture(scope="module")
def checkpoint(shared, tmp_path_factory):
    """Write the file of a metric once; return its path and the record of the original class."""
    folder, written = tmp_path_factory.mktemp("published"), {}

    def of(name):
        if name not in written:
            record, expected = parity.read(shared, name)
            arrays = parity.weights(record)
            state = {key: tensor(array.reshape(-1), array.shape) for key, array in arrays.items()}
            written[name] = torch_zip(folder / f"{name}.pth", state), record, expected
        return written[name]

    return of


def arrays(model):
    return {name: np.asarray(variable[...]) for name, variable in key_map.parameters(model).items()}


def scores(model, images):
    graphdef, state = nnx.split(model)
    return np.asarray(jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))(state, images))


def labelled_by(model, splits):
    """Replace the labels by the model's own order, so that two steps cannot turn its correlation round."""
    found = {}
    for part, split in splits.items():
        ranks = np.argsort(np.argsort(scores(model, jnp.asarray(split.images()))))
        found[part] = replace(split, mos=ranks.astype(np.float32) * 10)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", [*CASES[:2], *(pytest.param(c, marks=pytest.mark.release) for c in CASES[2:])], ids=str
)
def test_from_a_published_checkpoint_to_a_saved_model(case, checkpoint, tmp_path, monkeypatch):
    path, record, expected = checkpoint(case.name)
    data = Data("builtin", options={"size": case.size, "train": 4, "val": 4, "test": 1})
    model = Model(metric=case.name, weights=str(path), options=dict(case.options))
    experiment = Experiment("mine", data, model, {"base": case.variant}, Evaluation(data, {}), workdir=str(tmp_path))
    check_training(experiment)
    check_files(experiment, ["base"])

    # 1. The experiment starts from the published weights: the score is the original class's.
    start = new_metric(experiment.model, weights=True)
    network = nnx.jit(lambda model, pixels: model.network(pixels))
    found = network(start, jnp.asarray(expected["image_uint8"], jnp.float32) / 255)
    reference = expected["out_global_f64" if case.name == "paq2piq" else "out_score_f64"]
    np.testing.assert_allclose(found, reference, rtol=record["suggested_tolerance"]["score_rel"])
    before = arrays(start)

    # 2. It trains for two steps and saves.
    saved = []
    save = models.save
    monkeypatch.setattr(program.models, "save", lambda model, folder: (saved.append(model), save(model, folder)))
    start = program.starting_model(experiment, "base", 0)[0]
    splits = labelled_by(start, program.load_data(experiment, ["base"]))
    images = jnp.asarray(splits["val"].images())
    untrained = scores(start, images)
    program.train_variant(experiment, "base", 0, splits, {}, {})
    (trained,) = saved

    # 3. Every published weight has moved by two steps of Adam at most, and nearly all of them have moved.
    after = arrays(trained)
    kernels = [name for name in before if name.endswith("kernel")]
    removed = {name: (after[name] == 0) & (before[name] != 0) for name in kernels}
    moved = {name: np.abs(after[name] - before[name])[~removed[name]] for name in kernels}
    assert max(change.max() for change in moved.values()) < 2.2 * RATE
    assert np.mean([np.mean(change > 0) for change in moved.values()]) > 0.9
    added = after.keys() - before.keys()
    assert bool(added) == bool(case.variant.block)
    assert all("robust_block" in name for name in added)

    # 4. The loaded model has the same scores, bit by bit.
    loaded = models.load_run(tmp_path / "base" / "seed0")
    kept = scores(loaded, images)
    np.testing.assert_array_equal(kept, scores(trained, images))
    np.testing.assert_array_equal(kept, scores(models.load(case.name, tmp_path / "base"), images))
    assert np.ptp(kept) > 0
    for name, array in arrays(loaded).items():
        np.testing.assert_array_equal(array, after[name], err_msg=name)
    assert not np.allclose(kept, loaded.calibrated(jnp.asarray(untrained)), rtol=1e-6)

    if case.variant.prune:
        check_pruned(before, arrays(loaded), removed)
        small = models.compact(loaded, size=case.size)
        assert sum(x.size for x in arrays(small).values()) < 0.95 * sum(x.size for x in after.values())
        np.testing.assert_allclose(scores(small, images), kept, rtol=1e-3)
    else:
        assert not any(gone.any() for gone in removed.values())


def check_pruned(before, after, removed):
    """The tenth of each convolution's published filters with the smallest norms is zero, and nothing else."""
    for name, kernel in before.items():
        if not name.endswith("kernel") or kernel.ndim != 4:
            assert name not in removed or not removed[name].any(), name
            continue
        norms = np.sqrt(np.square(kernel, dtype=np.float64).sum((0, 1, 2)))
        expected = set(np.argsort(norms, kind="stable")[: round(0.1 * len(norms))].tolist())
        assert set(np.flatnonzero((after[name] == 0).all((0, 1, 2))).tolist()) == expected, name
        assert removed[name].sum() == len(expected) * kernel[..., 0].size
