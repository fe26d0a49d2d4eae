"""Load a config file; a fault in it is one message with file, line and field."""

import dataclasses
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxiqa.config.experiment import Experiment
from jaxiqa.config.parameters import Parameter, check_parameters, parameters_of
from jaxiqa.config.suggest import suggestion
from jaxiqa.config.values import check_values


def shipped() -> dict[str, Path]:
    """Return the configs that come with the package, by name: in its own folder, or next to it in a checkout.

    The name of a config in a subfolder is ``folder/config``. Files whose name begins with an underscore are no configs.
    """
    package = Path(__file__).parents[1]
    folder = package / "configs" if (package / "configs").is_dir() else package.parent / "configs"
    paths = (path for path in folder.rglob("*.py") if not path.stem.startswith("_"))
    found = {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}
    return dict(sorted(found.items(), key=lambda item: ("/" in item[0], item[0])))


def find_config(name: str) -> Path:
    """Return the file of a config, given by its path or by the name of a shipped config, such as ``quickstart``.

    >>> find_config("quickstart").name, str(find_config("mine/quickstart.py"))
    ('quickstart.py', 'mine/quickstart.py')
    """
    path = Path(name)
    return path if path.is_file() or path.suffix else shipped().get(name, path)


def load_config(path: Path | str, **parameters: Any) -> Experiment:
    """Call ``get_config(**parameters)`` of a Python file and check the types of what it returns.

    The file may import other files in its folder. A shipped config may be given by its name, such as ``quickstart``.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file cannot be run, has no such parameter or does not allow its value, or does not return an
            experiment; the message names file, line and field.
    """
    return open_config(find_config(str(path)))[0](parameters)


Build = Callable[[dict[str, Any]], Experiment]
"""Calls ``get_config`` with parameters; raises the errors of `load_config`."""


def open_config(path: Path) -> tuple[Build, dict[str, Parameter]]:
    """Run a config file; return what calls its ``get_config``, and the parameters of that.

    Raises:
        FileNotFoundError, ValueError: as of `load_config`.
    """
    if not path.is_file():
        hint = (path.suffix and _neighbours(path)) or suggestion(path.with_suffix("").as_posix(), shipped())
        raise FileNotFoundError(f"--config {path}: no such file{hint}")
    if path.suffix != ".py":
        raise ValueError(f"--config {path}: not a Python file (.py)")
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    assert spec is not None  # the file ends in .py
    loader, module = spec.loader, importlib.util.module_from_spec(spec)
    assert loader is not None
    _run(path, lambda: loader.exec_module(module))
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise ValueError(f"--config {path}: it has no function get_config()")
    try:
        known = parameters_of(get_config)
    except (ValueError, NameError) as error:  # a NameError: an annotation that does not exist
        raise ValueError(f"--config {path}: {error}") from error

    def build(parameters: dict[str, Any]) -> Experiment:
        try:
            check_parameters(known, parameters)
        except ValueError as error:
            raise ValueError(f"--config {path}: {error}") from error
        experiment = _run(path, lambda: get_config(**parameters))
        if not isinstance(experiment, Experiment):
            found = type(experiment).__name__
            raise ValueError(f"--config {path}: get_config() returned {found}; expected a jaxiqa.config.Experiment")
        try:
            check_values(experiment)
        except ValueError as error:
            raise ValueError(f"--config {path}: {error}") from error
        return experiment

    return build, known


def _run(path: Path, call: Callable[[], Any]) -> Any:
    """Call code of a config, which may import files of its folder; convert its errors."""
    before = list(sys.path)
    sys.path.insert(0, str(path.resolve().parent))
    try:
        return call()
    except SyntaxError as error:
        raise ValueError(f"--config {error.filename or path}, line {error.lineno}: {error.msg}") from error
    except Exception as error:
        raise ValueError(f"--config {_place(path, error)}: {_explain(error)}") from error
    finally:
        sys.path[:] = before


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
