"""Load a config file; a fault in it is one message with file, line and field."""

import dataclasses
import importlib.util
import re
import sys
import traceback
from pathlib import Path

from jaxiqa.config.experiment import Experiment
from jaxiqa.config.suggest import suggestion
from jaxiqa.config.values import check_values


def shipped() -> list[Path]:
    """Return the configs that come with the package: in its own folder, or next to it in a checkout."""
    package = Path(__file__).parents[1]
    folder = package / "configs" if (package / "configs").is_dir() else package.parent / "configs"
    return sorted(path for path in folder.glob("*.py") if path.stem != "__init__")


def find_config(name: str) -> Path:
    """Return the file of a config, given by its path or by the name of a shipped config, such as ``quickstart``.

    >>> find_config("quickstart").name, str(find_config("mine/quickstart.py"))
    ('quickstart.py', 'mine/quickstart.py')
    """
    path = Path(name)
    if path.is_file() or path.parent != Path() or path.suffix:
        return path
    return next((one for one in shipped() if one.stem == name), path)


def load_config(path: Path) -> Experiment:
    """Call ``get_config()`` of a Python file and check the types of what it returns.

    The file may import other files in its folder.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file cannot be run, or does not return an experiment; the message names file, line and field.
    """
    if not path.is_file():
        names = [one.stem for one in shipped()]
        hint = _neighbours(path) or suggestion(path.stem, names)
        raise FileNotFoundError(f"--config {path}: no such file{hint}")
    if path.suffix != ".py":
        raise ValueError(f"--config {path}: not a Python file (.py)")
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    assert spec is not None  # the file ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
        get_config = getattr(module, "get_config", None)
        experiment = get_config() if callable(get_config) else None
    except SyntaxError as error:
        raise ValueError(f"--config {error.filename or path}, line {error.lineno}: {error.msg}") from error
    except Exception as error:
        raise ValueError(f"--config {_place(path, error)}: {_explain(error)}") from error
    finally:
        sys.path[:] = before
    if not callable(get_config):
        raise ValueError(f"--config {path}: it has no function get_config()")
    if not isinstance(experiment, Experiment):
        raise ValueError(
            f"--config {path}: get_config() returned {type(experiment).__name__}; expected a jaxiqa.config.Experiment"
        )
    try:
        check_values(experiment)
    except ValueError as error:
        raise ValueError(f"--config {path}: {error}") from error
    return experiment


def _neighbours(path: Path) -> str:
    beside = sorted(other.name for other in path.parent.glob("*.py")) if path.parent.is_dir() else []
    return suggestion(path.name, beside) if beside else ""


def _place(path: Path, error: Exception) -> str:
    """Return the innermost line of the traceback in the config or in a file of its folder."""
    folder = path.resolve().parent
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).resolve().parent == folder:
            return f"{frame.filename}, line {frame.lineno}"
    return str(path)


def _explain(error: Exception) -> str:
    """Explain an error: name an unknown or missing field of the config; else return Python's message."""
    config = sys.modules["jaxiqa.config"]  # imported by the file that failed; it imports this one

    text = str(error)
    called = re.match(r"(\w+)\.__init__\(\) (.*)", text) if isinstance(error, TypeError) else None
    kind = getattr(config, called[1], None) if called else None
    if called and dataclasses.is_dataclass(kind):
        fields = [field.name for field in dataclasses.fields(kind)]
        if unknown := re.search(r"unexpected keyword argument '(\w+)'", called[2]):
            return f"{called[1]} has no field {unknown[1]!r}{suggestion(unknown[1], fields)}"
        if missing := re.findall(r"'(\w+)'", called[2] if "missing" in called[2] else ""):
            return f"{called[1]} needs {', '.join(missing)}; its fields are {', '.join(fields)}"
        return f"{called[1]}: {called[2]}; its fields are {', '.join(fields)}"
    if unknown := re.match(r"cannot import name '(\w+)' from 'jaxiqa.config'", text):
        return f"jaxiqa.config has no {unknown[1]!r}{suggestion(unknown[1], config.__all__)}"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
