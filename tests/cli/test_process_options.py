"""The options of several processes are checked together, and change nothing if they are absent."""

import jax
import pytest

from jaxiqa.cli import train
from jaxiqa.cli.processes import Place, take_place
from jaxiqa.train.parallel import check_backend

ALL = ["--coordinator", "10.0.0.1:1234", "--processes", "4", "--process", "3"]


def test_the_options_are_taken_from_among_others():
    words = ["--config", "smoke", *ALL[:2], "--seeds", "0", *ALL[2:]]
    assert take_place(words) == (["--config", "smoke", "--seeds", "0"], Place("10.0.0.1:1234", 4, 3))
    assert take_place(["--config", "smoke"]) == (["--config", "smoke"], None)
    assert (
        take_place(["[::1]:80", "--coordinator=[::1]:80", "--processes=1", "--process=0"])[1].coordinator == "[::1]:80"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (ALL[:2], "--coordinator without --processes, --process; give all three, or --distributed"),
        (ALL[2:], "--processes, --process without --coordinator"),
        ([*ALL, "--distributed"], "--distributed finds the processes itself; leave out --coordinator"),
        (["--coordinator", "here", *ALL[2:]], "--coordinator 'here'; write HOST:PORT"),
        (["--coordinator", "here:70000", *ALL[2:]], "--coordinator 'here:70000'; write HOST:PORT"),
        ([*ALL[:4], "--process", "4"], "--process 4; with --processes 4 expected 0 to 3"),
        ([*ALL[:4], "--process", "-1"], "--process '-1'; expected a whole number"),
        ([*ALL[:5]], "--process ''; expected a whole number"),
        ([*ALL[:2], "--processes", "0", "--process", "0"], "--processes 0; expected at least 1"),
    ],
)
def test_a_mistake_is_named(words, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        take_place(words)
    assert message in str(error.value)


def test_the_program_ends_with_the_mistake_and_before_it_reads_the_config():
    with pytest.raises(SystemExit, match="error: --coordinator without"):
        train.main(["--config", "no such file", *ALL[:2]])


def test_pmap_is_refused_over_processes(monkeypatch):
    check_backend("pmap", "parallel")
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    check_backend("shard_map", "parallel")
    with pytest.raises(ValueError, match="parallel='pmap' is for the devices of one process, and there are 2"):
        check_backend("pmap", "parallel")
