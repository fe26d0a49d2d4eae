"""Files and folders: atomic writes, names that are valid on every file system, locks, clear errors."""

import errno
import hashlib
import json
import os
import re
import shutil
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

MENDS = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EDQUOT: "your disk quota is used up; free some space and run the same command again",
    errno.EFBIG: "the file is larger than the limit set for this process (ulimit -f)",
    errno.EROFS: "the file system is read-only; choose another path",
    errno.EACCES: "permission denied; change its permissions or choose another path",
    errno.EPERM: "permission denied; change its permissions or choose another path",
    errno.ENOTDIR: "a file is where a folder should be; move it or choose another path",
    errno.EEXIST: "a file is where a folder should be; move it or choose another path",
    errno.EISDIR: "a folder is where a file should be; move it or choose another path",
    errno.ENAMETOOLONG: "the name is too long for this file system; choose a shorter one",
    errno.ELOOP: "its links form a circle; correct the link or choose another path",
}
"""What to do about each error of files and folders."""

RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))}


class WriteError(ValueError):
    """A file or folder cannot be written; the message names the path and what to do."""


class DamagedError(ValueError):
    """A file was changed or cut off after it was written; the message names it."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Convert an ``OSError`` of the block, which writes ``path``, into a `WriteError` that says what to do.

    >>> with writing(Path("runs/a")):
    ...     raise OSError(errno.ENOSPC, "No space left on device")
    Traceback (most recent call last):
    jaxiqa.core.files.WriteError: cannot write runs/a: the disk is full; free some space and run the same command again
    """
    try:
        yield
    except BlockingIOError:
        raise
    except OSError as error:
        named = error.filename if isinstance(error.filename, str) and not is_leftover(error.filename) else path
        raise WriteError(f"cannot write {named}: {MENDS.get(error.errno or 0) or error.strerror or error}") from error
    except (ValueError, RuntimeError) as error:  # Orbax and array_record report system errors so
        number = re.search(r"os_error_code='(\d+)'", str(error))
        said = [int(number[1])] if number else [known for known in MENDS if os.strerror(known) in str(error)]
        if not said or isinstance(error, WriteError):
            raise
        raise WriteError(f"cannot write {path}: {MENDS.get(said[0]) or os.strerror(said[0])}") from error


def cache_folder() -> Path:
    """Return ``$JAXIQA_CACHE``, or the user's cache folder of this project."""
    import pooch

    return Path(os.environ.get("JAXIQA_CACHE") or pooch.os_cache("jaxiqa"))


def check_space(folder: Path, needed: int) -> None:
    """Check, before many files are written, that ``needed`` bytes are free in ``folder``; else raise `WriteError`."""
    with writing(folder):
        if shutil.disk_usage(folder).free < needed:
            raise OSError(errno.ENOSPC, f"{needed} bytes are needed")


def neighbour(path: Path) -> Path:
    """Return the path of a hidden temporary file next to ``path`` for this process; its name is never too long.

    >>> neighbour(Path("runs/a.csv")).match("runs/.a.csv.*.tmp")
    True
    """
    name = path.name if len(os.fsencode(path.name)) <= 200 else hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    return path.with_name(f".{name}.{os.getpid()}.tmp")


def is_leftover(path: str | Path) -> bool:
    """Return whether a path has a name of the form that `neighbour` gives."""
    return bool(re.fullmatch(r"\..+\.\d+\.tmp", os.path.basename(path)))


def write_bytes(path: Path, content: bytes) -> None:
    """Write to a temporary file next to ``path``, flush it to disk, then rename it.

    Raises:
        WriteError: the file cannot be written; its old content is unchanged.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_bytes(Path(folder) / "a.bin", b"abc")
    ...     (Path(folder) / "a.bin").read_bytes()
    b'abc'
    """
    temporary = neighbour(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_text(path: Path, content: str) -> None:
    """`write_bytes` for UTF-8 text."""
    write_bytes(path, content.encode())


def check_folder(folder: Path, name: str = "file") -> None:
    """Check that ``folder`` exists or can be created, and that a file of this name can be written in it.

    The check leaves no files or folders behind. If it fails, it raises `WriteError`.
    """
    made = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
    probe = neighbour(folder / name)
    try:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"0")
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
            for path in made:
                path.rmdir()


def check_file(name: str, path: Path) -> Path:
    """Check that the file given by an option can be written; return its path with links resolved.

    An existing file is not changed by the check.

    Args:
        name: name of the option.
        path: value of the option.

    Raises:
        ValueError: ``path`` is a folder or a device.
        WriteError: the file or its folder cannot be written.

    >>> check_file("csv", Path("/"))
    Traceback (most recent call last):
    ValueError: csv: / is a folder; give the name of a file
    """
    target = Path(os.path.realpath(path))
    if os.path.exists(path) and not os.path.isfile(path):  # not target: the target of a link to a pipe is no path
        what = "folder" if os.path.isdir(path) else "device, not a file"
        raise ValueError(f"{name}: {path} is a {what}; give the name of a file")
    check_folder(target.parent, target.name)
    with writing(target):
        if target.exists():  # raises an error if its name is too long
            target.open("ab").close()
    return target


def sealed_json(content: dict[str, Any]) -> str:
    """Return JSON that ends with a digest of its content; `open_sealed` finds every change by it.

    >>> open_sealed(sealed_json({"strength": 0.5}))
    {'strength': 0.5}
    """
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return json.dumps({**content, "sha256": digest}, indent=1)


def open_sealed(text: str) -> dict[str, Any]:
    """Read a text of `sealed_json` and return its content.

    Raises:
        DamagedError: the text was changed. The message starts with "it"; the caller puts the file name before it.

    >>> open_sealed(sealed_json({"strength": 0.5}).replace("0.5", "0.6"))
    Traceback (most recent call last):
    jaxiqa.core.files.DamagedError: it was changed after it was written
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"it cannot be read ({error})") from error
    if not isinstance(content, dict) or content.pop("sha256", None) is None:
        raise DamagedError("it has no digest (sha256)")
    if sealed_json(content) != text:
        raise DamagedError("it was changed after it was written")
    return content


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files and folders of killed programs in ``folder`` and below; call it only inside `locked`."""
    for path in list(folder.rglob(".*.tmp")):
        if is_leftover(path) and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif is_leftover(path):
            path.unlink(missing_ok=True)


def safe_name(label: str) -> str:
    """Return a file name for a label: the label if it is short and plain; otherwise its plain part and a digest.

    >>> safe_name("PGD-8 (weak)"), safe_name("a/b")
    ('PGD-8 (weak)', 'a_b~c14cddc033f64b9d')
    """
    plain = re.sub(r"[^A-Za-z0-9 ._+()=,@-]", "_", label)
    edges = label[:1] not in ("", ".", " ") and label[-1:] not in (".", " ")
    if plain == label and len(plain) <= 100 and edges and plain.partition(".")[0].lower() not in RESERVED:
        return label
    return f"{plain[:60].strip('. ')}~{hashlib.sha256(label.encode()).hexdigest()[:16]}"


def check_labels(where: str, labels: Iterable[str], *, taken: Iterable[str] = ()) -> None:
    """Check that every label is one visible line and that no two labels share a file name; else raise ``ValueError``.

    Some file systems ignore case, and readers cannot see different Unicode spellings of a letter. So labels that
    differ only in these are errors.

    Args:
        where: place of the labels, for the message.
        labels: for example the names of variants.
        taken: file names that are used already.

    >>> check_labels("variants", ["baseline", "Baseline"])
    Traceback (most recent call last):
    ValueError: variants: 'Baseline' and 'baseline' differ only in case and would share a folder; rename one
    """
    seen: dict[str, str] = {}
    for label in labels:
        if not label.strip() or not label.isprintable():
            raise ValueError(f"{where}: {label!r} is not a label; expected at least one visible character, on one line")
        names = {safe_name(label).casefold(), unicodedata.normalize("NFKC", label).casefold()}
        if names & {other.casefold() for other in taken}:
            raise ValueError(f"{where}: {label!r} is the name of a file or folder that jaxiqa writes; rename it")
        for name in names & seen.keys():
            how = "case" if label.lower() == seen[name].lower() else "case or in how Unicode spells them"
            raise ValueError(
                f"{where}: {label!r} and {seen[name]!r} differ only in {how} and would share a folder; rename one"
            )
        seen |= dict.fromkeys(names, label)


@contextmanager
def locked(folder: Path, *, wait: float = 0.0) -> Iterator[None]:
    """Lock ``folder`` against other processes of this machine; the lock always ends with the process.

    Use it around every write in a folder, and around reads whose result decides what is done.

    Args:
        folder: is created if it does not exist.
        wait: seconds to wait for another process.

    Raises:
        BlockingIOError: another process holds the lock.
        WriteError: the folder cannot be created or written.
    """
    import filelock

    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / ".lock", timeout=wait)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise BlockingIOError(
                f"another process uses {folder}; wait until it ends or choose another folder"
            ) from None
    try:
        yield
    finally:
        lock.release()
