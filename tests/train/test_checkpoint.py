import json

import jax.numpy as jnp
import numpy as np
import pytest

from jaxiqa.train.checkpoint import CheckpointCorruptError, Checkpoints


def state(value: float) -> dict:
    return {"w": jnp.full((64, 8), value), "step": jnp.int32(value)}


@pytest.fixture
def folder(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state(step))
    return tmp_path


def array_file(folder, step):
    """The largest file of a step: its arrays."""
    return max((p for p in (folder / str(step)).rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_the_newest_of_the_kept_steps_is_restored(folder):
    with Checkpoints(folder) as checkpoints:
        step, restored = checkpoints.restore(state(0))
        assert sorted(checkpoints.manager.all_steps()) == [2, 3]
    assert step == 3
    np.testing.assert_array_equal(restored["w"], state(3)["w"])


def test_nothing_saved_is_none(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(state(0)) is None


def test_a_flipped_bit_is_noticed_and_the_step_before_is_used(folder, caplog):
    flip_a_bit(array_file(folder, 3))
    with Checkpoints(folder) as checkpoints:
        step, restored = checkpoints.restore(state(0))
    assert step == 2
    assert restored["step"] == 2
    assert "damaged" in caplog.text


def test_a_missing_file_is_noticed(folder):
    array_file(folder, 3).unlink()
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.restore(state(0))[0] == 2


def test_no_intact_step_is_an_error_that_names_the_folder(folder):
    for step in (2, 3):
        flip_a_bit(array_file(folder, step))
    with Checkpoints(folder) as checkpoints, pytest.raises(CheckpointCorruptError, match=str(folder)):
        checkpoints.restore(state(0))


def test_a_step_killed_before_its_manifest_is_not_trusted_and_can_be_saved_again(folder):
    (folder / "3.sha256.json").unlink()
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.restore(state(0))[0] == 2
        checkpoints.save(3, state(3))
        assert checkpoints.restore(state(0))[0] == 3


@pytest.mark.parametrize("template", [{"w": jnp.zeros((64, 8), jnp.bfloat16)}, {"w": jnp.zeros((8, 64))}])
def test_another_type_or_shape_is_an_error_that_names_the_array(folder, template):
    with Checkpoints(folder) as checkpoints, pytest.raises(ValueError, match="w"):
        checkpoints.restore({**state(0), **template})


def test_manifest_lists_every_file_of_the_step(folder):
    manifest = json.loads((folder / "3.sha256.json").read_text())
    files = {str(p.relative_to(folder / "3")) for p in (folder / "3").rglob("*") if p.is_file()}
    assert set(manifest) == files
