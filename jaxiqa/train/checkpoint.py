"""Checkpoints that are noticed when damaged.

Orbax writes and restores the arrays. It restores a flipped bit without a word, so each finished step is sealed by a
manifest: the step's number, the SHA-256 digest of each of its files, and one of the manifest itself. Only a step that
matches its manifest is restored; otherwise the newest earlier one is. Files that were not sealed are none of its parts.
"""

import hashlib
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxiqa.core.files import DamagedError, check_space, open_sealed, sealed_json, write_text

log = logging.getLogger(__name__)
SUFFIX = ".sha256.json"
SHOWN = 20
SPARE = 2**17
"""Bytes that must be free beside those of the arrays, for what describes them."""


class CheckpointCorruptError(ValueError):
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
        with _explained(self.folder.parent):
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
        for unfinished in self.folder.glob("*.orbax-checkpoint-tmp*"):  # Ctrl-C fell into a save
            shutil.rmtree(unfinished, ignore_errors=True)

    def save(self, step: int, state: Any) -> None:
        """Write ``state``, wait until it is complete, seal it with a manifest and drop the oldest steps.

        A step that a killed run left without its manifest is written again. Later steps, which only another run can
        have left, stay and do not count.

        Raises:
            OSError: the folder cannot be written; the message names it.
            WriteError: there is not room enough on the disk. Nothing is begun then, for a write that fails in between
                fills the terminal with tracebacks from other threads.
        """
        check_space(self.folder, sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + SPARE)
        with _explained(self.folder):
            if step in self.manager.all_steps():
                self.manager.delete(step)
            self.manager.save(step, args=ocp.args.StandardSave(_named(state)), force=True)
            self.manager.wait_until_finished()
            write_text(self._manifest(step), sealed_json({"step": step, "files": _digests(self.folder / str(step))}))
            for old in sorted(other for other in self.manager.all_steps() if other <= step)[: -self.keep]:
                self.manager.delete(old)
                self._manifest(old).unlink(missing_ok=True)

    def restore(self, template: Any) -> tuple[int, Any] | None:
        """The newest undamaged step and its state, or None where nothing was ever saved.

        Args:
            template: a state of the same structure, shapes and types.

        A single step without a manifest is what a run leaves that is killed while it writes its first one: it is not
        used, which is logged.

        Raises:
            CheckpointCorruptError: steps exist, but none is intact.
            ValueError: an array's shape or type differs from the template's.
        """
        steps = self._steps()
        sealed = [step for step in steps if self._manifest(step).exists()]
        for step in steps:
            if damage := self._damage(step):
                log.warning("checkpoint %s is not used: %s", self.folder / str(step), damage)
                continue
            wanted = _named(template)
            _check_same(wanted, self.manager.item_metadata(step).tree, self.folder / str(step))
            arrays = self.manager.restore(step, args=ocp.args.StandardRestore(jax.tree.map(_abstract, wanted)))
            return step, jax.tree.unflatten(jax.tree.structure(template), [arrays[name] for name in wanted])
        if sealed or len(steps) > 1:
            raise CheckpointCorruptError(
                f"no checkpoint in {self.folder} is intact (steps {steps}; step {steps[0]}: "
                f"{self._damage(steps[0])}); delete the folder to train anew"
            )
        return None

    def _steps(self) -> list[int]:
        """All that have a folder or a manifest, the newest first."""
        manifests = {path.name.removesuffix(SUFFIX) for path in self.folder.glob(f"*{SUFFIX}")}
        return sorted({*self.manager.all_steps(), *(int(name) for name in manifests if name.isdecimal())}, reverse=True)

    def _manifest(self, step: int) -> Path:
        return self.folder / f"{step}{SUFFIX}"

    def _damage(self, step: int) -> str | None:
        """What is wrong with a step, or None."""
        path = self._manifest(step)
        if not path.exists():
            return f"its manifest {path.name} is missing"
        try:
            manifest = open_sealed(path.read_text())
            number, files = manifest["step"], manifest["files"]
        except DamagedError as error:
            return f"its manifest {path.name} is damaged: {error}"
        except (OSError, ValueError, LookupError):
            return f"its manifest {path.name} cannot be read"
        if not files or not isinstance(files, dict):
            return f"its manifest {path.name} names no file"
        if number != step:
            return f"its manifest is that of step {number}"
        found = _digests(self.folder / str(step), files)
        if stray := sorted(_files(self.folder / str(step)) - files.keys()):
            log.info("checkpoint %s: %s is no part of it", self.folder / str(step), stray[0])
        changed = [name for name in sorted(files) if files[name] != found.get(name)]
        missing = [name for name in changed if name not in found]
        if missing:
            return f"{missing[0]} is missing"
        return f"{changed[0]} does not match its digest" if changed else None


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Name the folder where the system refuses to write; Orbax raises errors of several kinds for it."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        problem = _why_not_written(folder)
        if problem is None and not isinstance(error, OSError):
            raise
        raise OSError(f"no checkpoint can be written in {folder} ({problem or error}); mend it and go on") from error


def _why_not_written(folder: Path) -> str | None:
    """What the system says to a megabyte in the folder."""
    path = folder / f".{os.getpid()}.tmp"
    try:
        path.write_bytes(bytes(2**20))
    except OSError as error:
        return error.strerror
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
    return None


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def _digests(folder: Path, names: Iterable[str] | None = None) -> dict[str, str]:
    """Of these files of the folder that exist, or of all."""
    names = _files(folder) if names is None else [name for name in names if (folder / name).is_file()]
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in sorted(names)}


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
        different = sorted(set(wanted) ^ set(stored))
        more = f" and {len(different) - SHOWN} more" if len(different) > SHOWN else ""
        raise ValueError(f"{where} holds other arrays; they differ in {', '.join(different[:SHOWN])}{more}")
    for name, leaf in wanted.items():
        other = stored[name]
        if (tuple(leaf.shape), leaf.dtype) != (tuple(other.shape), other.dtype):
            raise ValueError(f"{where}: {name} is {other.dtype}{other.shape}, expected {leaf.dtype}{leaf.shape}")
