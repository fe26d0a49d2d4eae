"""The parameters of a config's `get_config` are options of the command line; configs in subfolders have names."""

from pathlib import Path

import pytest

from jaxiqa.cli.config_options import take_parameters
from jaxiqa.cli.options import from_command_line
from jaxiqa.config import load_config
from jaxiqa.config.loading import find_config, shipped
from jaxiqa.config.parameters import parameters_of

ROOT = Path(__file__).parent.parent

MINE = """
from typing import Literal
from jaxiqa.config import Data, Evaluation, Experiment, Model, Training, Variant

def get_config({signature}):
    values = {{name: value for name, value in locals().items()}}
    training = Training(values.get("epochs", 2), learning_rate=values.get("rate", 1e-3))
    return Experiment(
        f"mine_{{values.get('scale')}}", Data("builtin"), Model("resnet18"), {{"a": Variant(training)}},
        Evaluation(Data("builtin"), {{}}),
    )
"""
FULL = "scale: Literal['paper', 'small'] = 'paper', rate: float = 1e-3, epochs=2, "
FULL += "free: str = 'x', both_ways: bool = True"


@pytest.fixture
def mine(tmp_path):
    def write(signature=FULL):
        path = tmp_path / "mine.py"
        path.write_text(MINE.format(signature=signature))
        return path

    return write


def test_parameters_are_options_and_fields_still_override(mine):
    given = [
        "--seeds",
        "4",
        "--scale",
        "small",
        "--rate=2/255",
        "--epochs",
        "3",
        "--variants.a.training.batch-size",
        "7",
    ]
    found = from_command_line("", ["--config", str(mine()), *given, "--scale=small", "--free", "8"])
    assert found.name == "mine_small"
    assert found.seeds == (4,)
    training = found.variants["a"].training
    assert (training.epochs, training.learning_rate, training.batch_size) == (3, 2 / 255, 7)
    assert from_command_line("", [f"--config={mine()}"]).name == "mine_paper"


def test_text_stays_text_and_dashes_are_underscores(mine):
    known = parameters_of(lambda scale="1", both_ways=True, size=(2, 3): None)
    values, rest = take_parameters(known, ["--both-ways", "False", "--scale", "1e3", "--x", "--size=4,5"], "mine.py")
    assert values == {"both_ways": False, "scale": "1e3", "size": (4, 5)}
    assert rest == ["--x"]
    assert take_parameters(known, ["--scale", "a", "--scale", "b"], "mine.py")[0] == {"scale": "b"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--scale", "smal"], r"mine\.py: scale='smal'; did you mean 'small'\? There are 'paper', 'small'"),
        (["--scale=large"], r"mine\.py: scale='large'; there are 'paper', 'small'"),
        (["--scale"], r"mine\.py: --scale needs a value: \{paper,small\}"),
        (["--epochs", "many"], r"mine\.py: epochs='many'; expected a whole number"),
        (["--rate", "None"], r"mine\.py: rate=None; expected a number"),
        (["--both-ways", "1"], r"mine\.py: both_ways=1; expected True or False"),
    ],
)
def test_a_wrong_value_names_what_is_allowed(mine, given, message):
    with pytest.raises(ValueError, match=message):
        from_command_line("", ["--config", str(mine()), *given])


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        ("scale", r"needs a keyword parameter with a default: 'scale' is none"),
        ("scale='a', /", r"needs a keyword parameter with a default: 'scale' is none"),
        ("seeds=(0,)", r"has the parameter 'seeds', which is a field of Experiment too; rename it"),
        ("scale: Litteral['a'] = 'a'", "'Litteral' is not defined"),
    ],
)
def test_a_signature_that_cannot_be_an_option_is_one_message(mine, signature, message):
    with pytest.raises(ValueError, match=f"mine.py.*{message}"):
        load_config(mine(signature))


def test_python_callers_give_parameters_by_name(mine):
    assert load_config(mine(), scale="small").name == "mine_small"
    with pytest.raises(ValueError, match=r"get_config\(\) has no parameter 'size'; there are 'scale', 'rate'"):
        load_config(mine(), size=3)
    assert load_config(mine("*args, **kwargs")).name == "mine_None"


def test_help_lists_the_parameters(mine, capsys):
    with pytest.raises(SystemExit):
        from_command_line("Words.", ["--config", str(mine()), "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--scale {paper,small} (default: paper), --rate FLOAT (default: 0.001), --epochs INT (default: 2)" in shown
    with pytest.raises(SystemExit):
        from_command_line("Words.", ["--config", str(mine("")), "--help"])
    assert "Options of this config" not in capsys.readouterr().out


def test_an_option_of_another_config_is_refused(mine, capsys):
    with pytest.raises(SystemExit):
        from_command_line("", ["--config", str(mine("")), "--scale", "small"])
    assert "--scale" in capsys.readouterr().err


def test_configs_in_folders_have_names_and_helpers_are_no_configs():
    names = shipped()
    assert find_config("quickstart") == names["quickstart"]
    assert all(path.is_file() and not path.stem.startswith("_") for path in names.values())
    assert list(names) == [*sorted(n for n in names if "/" not in n), *sorted(n for n in names if "/" in n)]
    assert find_config("nowhere/config") == Path("nowhere/config")
    with pytest.raises(FileNotFoundError, match=r"did you mean 'quickstart'\? There are 'certified'"):
        load_config(find_config("quickstar"))
