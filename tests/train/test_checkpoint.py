import json
import shutil

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
    """Return the largest file of a step: its arrays."""
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


def test_without_checkpoints_restore_returns_none(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(state(0)) is None


def test_a_flipped_bit_is_detected_and_the_previous_step_is_used(folder, caplog):
    flip_a_bit(array_file(folder, 3))
    with Checkpoints(folder) as checkpoints:
        step, restored = checkpoints.restore(state(0))
    assert step == 2
    assert restored["step"] == 2
    assert "is not used" in caplog.text
    assert "does not match its digest" in caplog.text


def test_a_missing_file_is_detected(folder):
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
    manifest = json.loads((folder / "3.sha256.json").read_text())["files"]
    files = {str(p.relative_to(folder / "3")) for p in (folder / "3").rglob("*") if p.is_file()}
    assert set(manifest) == files


def restored_step(folder):
    """Return the restored step, and whether its content is that of this step."""
    with Checkpoints(folder) as checkpoints:
        step, restored = checkpoints.restore(state(0))
    assert restored["step"] == step
    return step


def swap(first, second):
    aside = first.with_name("aside")
    first.rename(aside)
    second.rename(first)
    aside.rename(second)


def test_a_step_copied_to_another_number_with_its_manifest_is_not_restored(folder, caplog):
    shutil.copytree(folder / "2", folder / "7")
    shutil.copy(folder / "2.sha256.json", folder / "7.sha256.json")
    assert restored_step(folder) == 3
    assert "its manifest is that of step 2" in caplog.text
    with Checkpoints(folder) as checkpoints:  # and it does not replace a sound step
        checkpoints.save(4, state(4))
        assert {3, 4} <= set(checkpoints.manager.all_steps())
    assert restored_step(folder) == 4


@pytest.mark.parametrize("with_manifests", [True, False])
def test_two_swapped_steps_are_detected(folder, with_manifests):
    swap(folder / "2", folder / "3")
    if with_manifests:
        swap(folder / "2.sha256.json", folder / "3.sha256.json")
    with (
        Checkpoints(folder) as checkpoints,
        pytest.raises(CheckpointCorruptError, match="is intact"),
    ):
        checkpoints.restore(state(0))


def renumbered(text):
    return text.replace('"step": 3', '"step": 2')


def shortened(text):
    manifest = json.loads(text)
    manifest["files"].popitem()
    return json.dumps(manifest, indent=1)


@pytest.mark.parametrize(
    "manifest",
    [
        *("[]", "null", "", "3", "{}", '"x"', "[" * 100_000, '{"step": 3, "files": {}}', '{"step": 3, "files": null}'),
        renumbered,
        shortened,
    ],
)
def test_a_damaged_manifest_is_not_trusted(folder, manifest, caplog):
    path = folder / "3.sha256.json"
    path.write_text(manifest(path.read_text()) if callable(manifest) else manifest)
    assert restored_step(folder) == 2
    assert "3.sha256.json" in caplog.text


def test_missing_manifests_are_reported(folder, caplog):
    (folder / "3.sha256.json").unlink()
    (folder / "2.sha256.json").unlink()
    with (
        Checkpoints(folder) as checkpoints,
        pytest.raises(CheckpointCorruptError, match=r"step 3: its manifest 3\.sha256\.json is missing"),
    ):
        checkpoints.restore(state(0))
    shutil.rmtree(folder / "2")  # a single step is normal for a run killed at its first checkpoint
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.restore(state(0)) is None
    assert "is not used: its manifest 3.sha256.json is missing" in caplog.text


@pytest.mark.parametrize(
    "where", ["3/.DS_Store", "3/default/d/._x", ".DS_Store", "notes/x", "3 copy/x", "3.backup", "12"]
)
def test_other_files_are_not_part_of_a_checkpoint(folder, where):
    (folder / where).parent.mkdir(parents=True, exist_ok=True)
    (folder / where).write_bytes(b"stray")
    assert restored_step(folder) == 3
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(4, state(4))
    assert restored_step(folder) == 4


@pytest.mark.parametrize("left", [["default"], ["_CHECKPOINT_METADATA"], []])
def test_partial_folders_are_detected(folder, left, caplog):
    for path in (folder / "3").iterdir():
        if path.name not in left:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert restored_step(folder) == 2
    assert "is missing" in caplog.text
    shutil.rmtree(folder / "3")
    assert restored_step(folder) == 2


def test_the_error_names_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=f"no checkpoint can be written in {tmp_path}/file"):
        Checkpoints(tmp_path / "file" / "checkpoints")
    with Checkpoints(tmp_path / "full") as checkpoints:
        monkeypatch.setattr(
            checkpoints.manager, "save", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space"))
        )
        with pytest.raises(OSError, match=r"no checkpoint can be written in .*full \(.*No space"):
            checkpoints.save(1, state(1))
