"""Files and folders: writes that a kill cannot halve, names that every file system takes, locks, and clear errors."""

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
    errno.ELOOP: "its links lead round in a circle; mend the link or choose another path",
}
"""What to do about the errors that files and folders meet."""

RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))}


class WriteError(ValueError):
    """A file or folder cannot be written; the message names the path and what to do."""


class DamagedError(ValueError):
    """A file is not as it was written; the message names it."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` of the block, which writes ``path``, into a `WriteError` that says what to do.

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
    except (ValueError, RuntimeError) as error:  # so Orbax and array_record report what the system refused
        number = re.search(r"os_error_code='(\d+)'", str(error))
        said = [int(number[1])] if number else [known for known in MENDS if os.strerror(known) in str(error)]
        if not said or isinstance(error, WriteError):
            raise
        raise WriteError(f"cannot write {path}: {MENDS.get(said[0]) or os.strerror(said[0])}") from error


def check_space(folder: Path, needed: int) -> None:
    """Raise `WriteError` unless ``needed`` bytes are free where ``folder`` is: before a write of many files begins."""
    with writing(folder):
        if shutil.disk_usage(folder).free < needed:
            raise OSError(errno.ENOSPC, f"{needed} bytes are needed")


def neighbour(path: Path) -> Path:
    """A hidden file beside ``path`` that only this process writes, with a name of no more bytes than files may have.

    >>> neighbour(Path("runs/a.csv")).match("runs/.a.csv.*.tmp")
    True
    """
    name = path.name if len(os.fsencode(path.name)) <= 200 else hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    return path.with_name(f".{name}.{os.getpid()}.tmp")


def is_leftover(path: str | Path) -> bool:
    """Whether a path is named as `neighbour` names files."""
    return bool(re.fullmatch(r"\..+\.\d+\.tmp", os.path.basename(path)))


def write_bytes(path: Path, content: bytes) -> None:
    """Write to a neighbour, flush to disk, then rename.

    Raises:
        WriteError: it cannot be written; the old content is still there.

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
    """Raise `WriteError` unless ``folder`` exists or can be made, and a file of this name can be written in it.

    Nothing of the attempt stays.
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
    """Where a file named by an option will be written, links followed, once it is known that it can be.

    An earlier file there is let be, and will be replaced as a whole.

    Args:
        name: of the option.
        path: what it says.

    Raises:
        ValueError: there is a folder or a device.
        WriteError: the file or its folder cannot be written.

    >>> check_file("csv", Path("/"))
    Traceback (most recent call last):
    ValueError: csv: / is a folder; give the name of a file
    """
    target = Path(os.path.realpath(path))
    if os.path.exists(path) and not os.path.isfile(path):  # the target of a link to a pipe is no path
        what = "folder" if os.path.isdir(path) else "device, not a file"
        raise ValueError(f"{name}: {path} is a {what}; give the name of a file")
    check_folder(target.parent, target.name)
    with writing(target):
        if target.exists():  # an error where its name is too long
            target.open("ab").close()
    return target


def sealed_json(content: dict[str, Any]) -> str:
    """JSON that ends with a digest of itself, by which `open_sealed` notices every change.

    >>> open_sealed(sealed_json({"strength": 0.5}))
    {'strength': 0.5}
    """
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return json.dumps({**content, "sha256": digest}, indent=1)


def open_sealed(text: str) -> dict[str, Any]:
    """What `sealed_json` was given.

    Raises:
        DamagedError: the text is not exactly what it made; says so of "it", for the caller to name the file before.

    >>> open_sealed(sealed_json({"strength": 0.5}).replace("0.5", "0.6"))
    Traceback (most recent call last):
    jaxiqa.core.files.DamagedError: it was changed after it was written
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"it cannot be read ({error})") from error
    if not isinstance(content, dict) or content.pop("sha256", None) is None:
        raise DamagedError("it has no seal")
    if sealed_json(content) != text:
        raise DamagedError("it was changed after it was written")
    return content


def remove_leftovers(folder: Path) -> None:
    """Delete what `write_bytes` left in ``folder`` and below when it was killed; only inside `locked`."""
    for path in folder.rglob(".*.tmp"):
        if is_leftover(path):
            path.unlink(missing_ok=True)


def safe_name(label: str) -> str:
    """A file name for a label: the label itself where it is short and plain, else what is plain of it and a digest.

    >>> safe_name("PGD-8 (weak)"), safe_name("a/b")
    ('PGD-8 (weak)', 'a_b~c14cddc033f64b9d')
    """
    plain = re.sub(r"[^A-Za-z0-9 ._+()=,@-]", "_", label)
    edges = label[:1] not in ("", ".", " ") and label[-1:] not in (".", " ")
    if plain == label and len(plain) <= 100 and edges and plain.partition(".")[0].lower() not in RESERVED:
        return label
    return f"{plain[:60].strip('. ')}~{hashlib.sha256(label.encode()).hexdigest()[:16]}"


def check_labels(where: str, labels: Iterable[str], *, taken: Iterable[str] = ()) -> None:
    """Raise ``ValueError`` unless every label can be shown in a line, and no two share a file name.

    Some file systems do not tell upper from lower case, and people do not tell how Unicode spells a letter, so labels
    that differ in nothing else are refused.

    Args:
        where: of the labels, for the message.
        labels: such as the names of variants.
        taken: file names that other things have.

    >>> check_labels("variants", ["baseline", "Baseline"])
    Traceback (most recent call last):
    ValueError: variants: 'Baseline' and 'baseline' differ only in case and would share a folder; rename one
    """
    seen: dict[str, str] = {}
    for label in labels:
        if not label.strip() or not label.isprintable():
            raise ValueError(f"{where}: {label!r} is no label; write at least one visible character, on one line")
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
    """Keep other processes of this machine out of ``folder``; the lock ends with the process, however that ends.

    Whoever reads something in a folder to decide by it, or writes there, does so inside.

    Args:
        folder: is created if it does not exist.
        wait: seconds to wait for another process to leave.

    Raises:
        BlockingIOError: another process is at work there.
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
                f"another process is at work in {folder}; wait for it or choose another folder"
            ) from None
    try:
        yield
    finally:
        lock.release()
