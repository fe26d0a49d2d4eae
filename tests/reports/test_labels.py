"""Every label that `check_labels` accepts is shown unchanged everywhere in a report."""

import csv
import io
import re
import warnings
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from markdown_it import MarkdownIt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console

from jaxiqa.core import progress as terminal
from jaxiqa.core.files import check_labels, safe_name
from jaxiqa.reports import write_defenses, write_report
from jaxiqa.reports.attacks.summary import summarise
from jaxiqa.reports.attacks.tables import for_terminal
from jaxiqa.reports.defenses.certified import certificates
from jaxiqa.reports.defenses.plots import MARKS
from jaxiqa.reports.defenses.summary import summarise_defenses
from jaxiqa.reports.defenses.tables import tidy_lines as defense_lines
from jaxiqa.reports.drawing import told_apart
from jaxiqa.results.examples import Example
from jaxiqa.results.rows import UNDEFENDED, CertificateRow, DefenseRow, ModelRow, PredictionRow, ResultRow

LABELS = [
    "[/]", "$x^2$", "<script>alert(1)</script>", "=1+1", "图像质量", "🙂 :smile:", "n" * 200, "\"double\" 'single'",
    "&amp;", "a|b", "_under_ ~~gone~~", "\\frac{1}{2} $", "*star* `tick`", "[link](http://x)", "@SUM(A1)",
    "n" * 199 + "m" + "n" * 99,
]  # fmt: skip
IMAGES = ["=cmd()", "图.png", "c" * 150]
EPSILONS = (2 / 255, 8 / 255)


class Page(HTMLParser):
    """Texts of a page's cells, notes, headings and alt attributes, and the names of all its elements."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.texts, self.elements = [""], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.texts += [dict(attrs).get("alt") or "", ""]

    def handle_endtag(self, tag):
        self.texts.append("")

    def handle_data(self, data):
        self.texts[-1] += data


def rows_of(labels):
    """Return rows of both reports; each label is used for a model, an attack, a defense and a certifier."""
    pairs, random = list(zip(labels, [*labels[1:], labels[0]], strict=True)), np.random.default_rng(0)
    results, predictions, defended, proofs = [], [], [], []
    for i, image in enumerate(IMAGES):
        for model in labels:
            predictions.append(PredictionRow(image, model, 0, float(i), 30.0 + 5 * i))
            for attack in labels[:4]:
                score, gain = 30.0 + 5 * i, random.uniform(5, 40)
                results += [
                    ResultRow(image, model, 0, attack, e, score, score + gain, score + gain, 0.01, 1.0, 0.9, None, 0.1)
                    for e in EPSILONS
                ]
        for attack in labels[:3]:
            for defense in (UNDEFENDED, *labels):
                scores = (30.0 + 5 * i, 60.0, 29.0, 29.0 + random.uniform(1, 40))
                row = DefenseRow(
                    image, labels[0], 0, attack, 8 / 255, None, defense, "transfer", *scores, 0.9, 36.0, 0.25
                )
                defended += [row] if defense == UNDEFENDED else [row, replace(row, mode="adaptive")]
        proofs += [
            CertificateRow(image, model, 0, None, None, None, certifier, 3.0, None, None, 0.2, False, 100, 0.1, 2.0)
            for certifier, model in pairs
        ]
    cards = [ModelRow(model, 0, 1000, 0.0, 100.0, 0.8, 1.5, 0.2, len(IMAGES)) for model in labels]
    return results, predictions, cards, defended, proofs


def write(labels, folder):
    """Write both reports; return the terminal output."""
    results, predictions, cards, defended, proofs = rows_of(labels)
    ends = {(model, 0): (0.0, 100.0) for model in labels}
    found = summarise_defenses(defended, ends)
    options = {"title": labels[0], "facts": {"command": f"python evaluate.py {labels[0]}"}}
    defended = write_defenses(folder, found, found, certificates(proofs, ends, None), **options)
    summary = summarise(results, predictions, cards, score_range="model")
    summary = replace(summary, missing=tuple(f"{label} seed 0: no rows" for label in labels))
    clean = np.full((20, 30, 3), 0.5, np.float32)
    examples = [Example(IMAGES[2], label, label, 8 / 255, 40.0, 70.0, clean, clean + 8 / 255) for label in labels[-3:]]
    write_report(folder, summary, examples, defended=defended, tidy=list(defense_lines(found)), **options)
    return [for_terminal(summary), *(table for section in defended for table in section.tables)]


@pytest.fixture(scope="module")
def figures():
    """All figures that are drawn."""
    drawn, original = [], Figure.savefig

    def savefig(figure, *arguments, **options):
        drawn.append(figure)
        figure.set_dpi(options["dpi"])  # measure boxes at the resolution of the layout
        original(figure, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", savefig)
        yield drawn


@pytest.fixture(scope="module")
def report(tmp_path_factory, figures):
    check_labels("variants", LABELS)
    folder = tmp_path_factory.mktemp("report")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns about missing letters and layouts that do not fit
        return folder, write(LABELS, folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["report.html", "leaderboard.html"])
def test_pages_show_every_label_as_text(report, name):
    page = Page((report[0] / name).read_text())
    plain = Page((report[0] / name).read_text().replace("&lt;", "").replace("&#34;", ""))
    assert page.elements == plain.elements
    assert page.elements.count("script") == 1
    assert set(LABELS) <= {text.strip() for text in page.texts}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["table.md", "defenses.md"])
def test_markdown_shows_every_label_as_text(report, name):
    text = (report[0] / name).read_text()
    page = Page(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text))
    assert set(page.elements) <= {"h2", "table", "thead", "tbody", "tr", "th", "td", "ul", "li", "p"}
    assert set(LABELS) <= set(page.texts)
    if name == "table.md":
        assert {f"Missing: {label} seed 0: no rows." for label in LABELS} <= set(page.texts)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("table.csv", ["model"]),
        ("tidy.csv", ["model", "defense"]),
        ("defenses.csv", ["model", "attack", "defense"]),
        ("leaderboard.csv", ["defense"]),
    ],
)
def test_csv_files_contain_every_label_and_no_formula(report, name, columns):
    text = (report[0] / name).read_text()
    cells = [cell for line in csv.reader(io.StringIO(text)) for cell in line]
    for cell in cells:
        assert not cell.startswith(("=", "+", "@", "\t", "\r", " ")), cell
        assert not cell.startswith("-") or float(cell) < 0
    found = {row[column].removeprefix("'") for row in csv.DictReader(io.StringIO(text)) for column in columns}
    assert set(LABELS) <= found


def test_the_terminal_shows_every_label(report):
    console = Console(width=4000, record=True, file=io.StringIO())
    for table in report[1]:
        console.print(table)
    cells = {cell.strip() for line in console.export_text().splitlines() for cell in line.replace("┃", "│").split("│")}
    assert {label for label in LABELS if label != "a|b"} <= cells


def test_terminal_lines_are_not_parsed_as_markup(capsys):
    for label in LABELS:
        terminal.say(label)
        terminal.note(label)
    out, err = capsys.readouterr()
    assert out.splitlines() == err.splitlines() == LABELS


def assert_nothing_is_cut_off(figures):
    assert figures
    for figure in figures:
        renderer, page = FigureCanvasAgg(figure).get_renderer(), figure.bbox
        texts = [text for text in figure.findobj(lambda artist: hasattr(artist, "get_text")) if text.get_text()]
        for text in texts:
            box = text.get_window_extent(renderer)
            ticks = re.fullmatch(r"[−\d.]+", text.get_text())  # texts beyond the ends of an axis are not drawn
            if text.get_visible() and not ticks:
                inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= page.x1 + 1 and box.y1 <= page.y1 + 1
                assert inside, (text.get_text(), box, page)


def test_plots_show_every_label_once_and_in_full(report, figures):
    assert len(figures) == 7
    shown = told_apart(LABELS)
    every = set(shown.values())
    assert len(every) == len(LABELS)
    assert_nothing_is_cut_off(figures)
    for figure in figures:
        for legend in figure.legends:
            names = [text.get_text() for text in legend.get_texts()]
            assert set(names) - {UNDEFENDED, *(text for text, _ in MARKS.values())} in (
                every,
                every - {shown[LABELS[0]]},
            )
            assert len(names) == len(set(names))


@pytest.mark.slow
@pytest.mark.parametrize("label", ["W" * 200, "图" * 40])
def test_a_report_of_one_name_fits_its_plots(label, figures, tmp_path):
    figures.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write([label], tmp_path)
    assert_nothing_is_cut_off(figures)


@pytest.mark.parametrize("label", ["a\nb", "a\tb", "", "  ", "a\x1b[31m", "\u202eabc"])
def test_unprintable_labels_are_refused(label):
    with pytest.raises(ValueError, match=r"variants: .* is not a label; .*one visible character, on one line"):
        check_labels("variants", [label])


def test_every_label_has_its_own_file_name(tmp_path):
    names = {safe_name(label) for label in LABELS}
    assert len(names) == len(LABELS)
    for name in names:
        (tmp_path / f"{name}.png").write_bytes(b"")
    assert {path.stem for path in tmp_path.iterdir()} == names
