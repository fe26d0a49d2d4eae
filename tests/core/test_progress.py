import pytest

from jaxiqa.core import progress


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.slow
def test_a_log_file_gets_one_line_per_minute_with_the_remaining_time(capsys, clock):
    with progress.progress_bar("scoring", "images") as update:
        for done in range(40, 100):  # 40 were done before
            clock[0] += 10
            update(done + 1, 100, "SSIM [0.9]")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 9  # none for the last image, which ends the tenth minute
    assert lines[0] == "scoring: 46 of 100 images, 11 minutes left, SSIM [0.9]"
    assert lines[-1].startswith("scoring: 94 of 100 images, 1 minutes left")


def test_short_work_writes_nothing_to_a_log_file(capsys, clock):
    with progress.progress_bar("scoring", "images") as update:
        for done in range(5):
            clock[0] += 10
            update(done + 1, 5, "")
    assert capsys.readouterr() == ("", "")


def test_names_in_brackets_are_not_markup(capsys):
    progress.say("scores[v2].csv in run[/best]")
    assert capsys.readouterr().out == "scores[v2].csv in run[/best]\n"


def test_names_between_colons_are_not_emoji(capsys):
    progress.say("a:warning:b [bold]:x:.png")
    progress.note("smile :smile:")
    progress.console.print("[bold]:rocket:[/]")
    assert capsys.readouterr() == ("a:warning:b [bold]:x:.png\n:rocket:\n", "smile :smile:\n")


@pytest.mark.parametrize(
    ("loss", "best", "select", "expected"),
    [
        (float("nan"), float("-inf"), "srocc", "loss –, best SROCC –"),
        (0.1234, float("-inf"), "srocc", "loss 0.123, best SROCC –"),
        (12.5, -0.25, "plcc", "loss 12.500, best PLCC -0.250"),
        (0.5, 1.6, "sum", "loss 0.500, best SROCC + PLCC 1.600"),
    ],
)
def test_a_training_tells_its_loss_and_its_best_validation(loss, best, select, expected):
    assert progress.so_far(loss, best, select) == expected
