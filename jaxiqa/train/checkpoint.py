"""Checkpoints that are noticed when damaged.

Orbax writes and restores the arrays. It restores a flipped bit without a word, so each finished step gets a manifest
of SHA-256 digests, and only a step that matches its manifest is restored; otherwise the newest earlier one is.
"""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxiqa.files import write_text

log = logging.getLogger(__name__)


class CheckpointCorruptError(RuntimeError):
    """No stored step can be trusted."""


class Checkpoints:
    """The newest ``keep`` steps of one run, in ``folder``.

    >>> import tempfile, jax.numpy as jnp
    >>> with tempfile.TemporaryDirectory() as folder, Checkpoints(Path(folder)) as checkpoints:
    ...     checkpoints.save(3, {"w": jnp.ones(2)})
    ...     step, state = checkpoints.restore({"w": jnp.zeros(2)})
    >>> step, state["w"].tolist()
    (3, [1.0, 1.0])
    """

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        self.folder = Path(folder).absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        # Orbax deletes nothing itself: a step goes only after a newer one is complete, manifest included.
        self.manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(max_to_keep=None),
            item_handlers=ocp.StandardCheckpointHandler(),
        )
        self.keep = keep

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.manager.close()

    def save(self, step: int, state: Any) -> None:
        """Write ``state``, wait until it is complete, seal it with a manifest and drop the oldest steps.

        A step that a killed run left without its manifest is written again.
        """
        if step in self.manager.all_steps():
            self.manager.delete(step)
        self.manager.save(step, args=ocp.args.StandardSave(_named(state)), force=True)
        self.manager.wait_until_finished()
        write_text(self._manifest(step), json.dumps(_digests(self.folder / str(step)), indent=1))
        for old in sorted(self.manager.all_steps())[: -self.keep]:
            self.manager.delete(old)
            self._manifest(old).unlink(missing_ok=True)

    def restore(self, template: Any) -> tuple[int, Any] | None:
        """The newest undamaged step and its state, or None where nothing was ever saved.

        Args:
            template: a state of the same structure, shapes and types.

        Raises:
            CheckpointCorruptError: steps exist, but none is intact.
            ValueError: an array's shape or type differs from the template's.
        """
        steps = sorted(self.manager.all_steps(), reverse=True)
        sealed = [step for step in steps if self._manifest(step).exists()]
        for step in sealed:
            damage = self._damage(step)
            if damage:
                log.warning("checkpoint %s is damaged (%s); trying an earlier one", self.folder / str(step), damage)
                continue
            wanted = _named(template)
            _check_same(wanted, self.manager.item_metadata(step).tree, self.folder / str(step))
            arrays = self.manager.restore(step, args=ocp.args.StandardRestore(jax.tree.map(_abstract, wanted)))
            return step, jax.tree.unflatten(jax.tree.structure(template), [arrays[name] for name in wanted])
        if sealed:
            raise CheckpointCorruptError(
                f"no checkpoint in {self.folder} is intact (steps {sealed}); delete the folder to train anew"
            )
        return None

    def _manifest(self, step: int) -> Path:
        return self.folder / f"{step}.sha256.json"

    def _damage(self, step: int) -> str | None:
        try:
            expected = json.loads(self._manifest(step).read_text())
        except ValueError:
            return "its manifest cannot be read"
        found = _digests(self.folder / str(step))
        changed = [name for name in sorted(expected | found) if expected.get(name) != found.get(name)]
        return f"{changed[0]} does not match its digest" if changed else None


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _named(tree: Any) -> dict[str, Any]:
    """The leaves by their path, in the order of the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _abstract(leaf: Any) -> Any:
    """Restore onto this process's first device, whatever wrote the checkpoint."""
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device)


def _check_same(wanted: dict[str, Any], stored: dict[str, Any], where: Path) -> None:
    """Compare with what was written: Orbax itself converts another type without a word."""
    if set(wanted) != set(stored):
        raise ValueError(f"{where} holds other arrays; they differ in {sorted(set(wanted) ^ set(stored))}")
    for name, leaf in wanted.items():
        other = stored[name]
        if (tuple(leaf.shape), leaf.dtype) != (tuple(other.shape), other.dtype):
            raise ValueError(f"{where}: {name} is {other.dtype}{other.shape}, expected {leaf.dtype}{leaf.shape}")
