import pytest
from own_purifiers import MINE

from jaxiqa.data import load


@pytest.fixture(scope="module")
def split():
    return load("builtin", size=(20, 28), train=1, val=1, test=5)["test"]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path
