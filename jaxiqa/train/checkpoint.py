"""Checkpoints with detection of damage.

Orbax writes and restores the arrays. It restores a flipped bit without an error. So each finished step is sealed by a
manifest: the step's number, the SHA-256 digest of each of its files, and a digest of the manifest itself. Only a step
that matches its manifest is restored, else the newest earlier one that does. Files without a seal are ignored.

Over several processes the state is the same on all. So process 0 alone writes, seals and reads, and sends what it has
read to the others: a checkpoint does not depend on the number of processes, and no process waits for another's disk.
"""

import hashlib
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxiqa.core.files import DamagedError, check_space, open_sealed, sealed_json, write_text
from jaxiqa.core.processes import first_does, from_first, is_first

log = logging.getLogger(__name__)
SUFFIX = ".sha256.json"
SHOWN = 20
SPARE = 2**17
"""Free bytes needed besides those of the arrays, for metadata."""


class CheckpointCorruptError(ValueError):
    """No stored step is intact."""


class Checkpoints:
    """The newest ``keep`` steps of one run, in ``folder``. Several processes call each method together.

    >>> import tempfile, jax.numpy as jnp
    >>> with tempfile.TemporaryDirectory() as folder, Checkpoints(Path(folder)) as checkpoints:
    ...     checkpoints.save(3, {"w": jnp.ones(2)})
    ...     step, state = checkpoints.restore({"w": jnp.zeros(2)})
    >>> step, state["w"].tolist()
    (3, [1.0, 1.0])
    """

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        self.folder, self.keep = Path(folder).absolute(), keep
        first_does(self._open)

    def _open(self) -> None:
        with _explained(self.folder.parent):
            self.folder.mkdir(parents=True, exist_ok=True)
        alone = ocp.options.MultiprocessingOptions()
        if jax.process_count() > 1:
            alone = replace(alone, active_processes={0}, barrier_sync_key_prefix="process-0")
        # Orbax must delete nothing: a step is deleted only after a newer one is complete, manifest included.
        self.manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(max_to_keep=None, create=False, multiprocessing_options=alone),
            item_handlers=ocp.StandardCheckpointHandler(multiprocessing_options=alone),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        if not is_first():
            return
        self.manager.close()
        for unfinished in self.folder.glob("*.orbax-checkpoint-tmp*"):  # Ctrl-C interrupted a save
            shutil.rmtree(unfinished, ignore_errors=True)

    def save(self, step: int, state: Any) -> None:
        """Write ``state``, wait until it is complete, seal it with a manifest and delete the oldest steps.

        A step without a manifest, from a killed run, is written again. Later steps, which only another run can have
        written, stay and are not counted.

        Raises:
            OSError: the folder cannot be written; the message names it.
            WriteError: the disk has not enough room. Nothing is written then: a write that fails halfway fills the
                terminal with tracebacks from other threads.
        """
        # Orbax takes no array of a single process among several, but it takes NumPy's.
        first_does(lambda: self._save(step, jax.device_get(state) if jax.process_count() > 1 else state))

    def _save(self, step: int, state: Any) -> None:
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
        """Return the newest undamaged step and its state, or None if nothing was ever saved.

        Args:
            template: a state of the same structure, shapes and types.

        A run that is killed while it writes its first step leaves a single step without a manifest. It is not used,
        and a warning is logged.

        Raises:
            CheckpointCorruptError: steps exist, but none is intact.
            ValueError: an array's shape or type differs from the template's.
        """
        found: list[tuple[int, Any]] = []
        step = first_does(lambda: self._restore(template, found))
        return None if step is None else (step, from_first(found[0][1] if found else template))

    def _restore(self, template: Any, found: list[tuple[int, Any]]) -> int | None:
        steps = self._steps()
        sealed = [step for step in steps if self._manifest(step).exists()]
        for step in steps:
            if damage := self._damage(step):
                log.warning("checkpoint %s is not used: %s", self.folder / str(step), damage)
                continue
            wanted = _named(template)
            _check_same(wanted, self.manager.item_metadata(step).tree, self.folder / str(step))
            arrays = self.manager.restore(step, args=ocp.args.StandardRestore(jax.tree.map(_abstract, wanted)))
            found.append((step, jax.tree.unflatten(jax.tree.structure(template), [arrays[name] for name in wanted])))
            return step
        if sealed or len(steps) > 1:
            raise CheckpointCorruptError(
                f"no checkpoint in {self.folder} is intact (steps {steps}; step {steps[0]}: "
                f"{self._damage(steps[0])}); delete the folder to train again"
            )
        return None

    def _steps(self) -> list[int]:
        """Return all steps that have a folder or a manifest, newest first."""
        manifests = {path.name.removesuffix(SUFFIX) for path in self.folder.glob(f"*{SUFFIX}")}
        return sorted({*self.manager.all_steps(), *(int(name) for name in manifests if name.isdecimal())}, reverse=True)

    def _manifest(self, step: int) -> Path:
        return self.folder / f"{step}{SUFFIX}"

    def _damage(self, step: int) -> str | None:
        """Return what is wrong with a step, or None."""
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
            log.info("checkpoint %s: ignoring %s, which is not part of it", self.folder / str(step), stray[0])
        changed = [name for name in sorted(files) if files[name] != found.get(name)]
        missing = [name for name in changed if name not in found]
        if missing:
            return f"{missing[0]} is missing"
        return f"{changed[0]} does not match its digest" if changed else None


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Name the folder in errors of the system; Orbax raises errors of several types for them."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        problem = _why_not_written(folder)
        if problem is None and not isinstance(error, OSError):
            raise
        raise OSError(f"no checkpoint can be written in {folder} ({problem or error}); fix this and resume") from error


def _why_not_written(folder: Path) -> str | None:
    """Try to write a megabyte in the folder; return the system's error, or None."""
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
    """Return the digests of those of these files that exist, or of all files in the folder."""
    names = _files(folder) if names is None else [name for name in names if (folder / name).is_file()]
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in sorted(names)}


def _named(tree: Any) -> dict[str, Any]:
    """Return the leaves by their path, in the order of the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _abstract(leaf: Any) -> Any:
    """Restore to this process's first device, whatever device wrote the checkpoint."""
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device)


def _check_same(wanted: dict[str, Any], stored: dict[str, Any], where: Path) -> None:
    """Compare with the stored arrays: Orbax converts another type without an error."""
    if set(wanted) != set(stored):
        different = sorted(set(wanted) ^ set(stored))
        more = f" and {len(different) - SHOWN} more" if len(different) > SHOWN else ""
        raise ValueError(f"{where} holds other arrays; they differ in {', '.join(different[:SHOWN])}{more}")
    for name, leaf in wanted.items():
        other = stored[name]
        if (tuple(leaf.shape), leaf.dtype) != (tuple(other.shape), other.dtype):
            raise ValueError(f"{where}: {name} is {other.dtype}{other.shape}, expected {leaf.dtype}{leaf.shape}")
