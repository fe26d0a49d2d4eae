"""The configs of papers: both scales, their controls, and one of them from training to the paper's table."""

import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from jaxiqa import data
from jaxiqa.config import blocks_of, check_experiment, describe, load_config
from jaxiqa.config.loading import find_config, shipped
from jaxiqa.evaluation.paper_run import check_paper, protocol
from jaxiqa.evaluation.startup import check_attack, check_evaluation_start
from jaxiqa.models import POSITIONS
from jaxiqa.reports.papers import PAPERS, guardians, robustness_as_architecture
from jaxiqa.reports.papers.paper import facts
from jaxiqa.train.startup import abstract_models, check_training

ROOT = Path(__file__).parent.parent
PAPER, GUARDIANS = "robustness_as_architecture", "guardians/adversarial_training"
LINEARITY = f"{PAPER}/linearity"
ALL = [(f"{PAPER}/{name}", {}) for name in ("linearity", "koncept", "tres")]
ALL += [(GUARDIANS, {"metric": metric}) for metric in ("linearity", "koncept512")]
SCALES = ("paper", "small")
EACH = [(name, {"scale": scale, **options}) for name, options in ALL for scale in SCALES]
IDS = ["-".join([name, *options.values()]) for name, options in EACH]


def load(name, **parameters):
    return load_config(find_config(name), **parameters)


def test_the_configs_of_papers_are_shipped_by_name():
    assert {name for name in shipped() if "/" in name} == {name for name, _ in ALL}


@pytest.mark.parametrize(("name", "parameters"), EACH, ids=IDS)
def test_every_config_is_well_formed_at_both_scales(name, parameters, monkeypatch, tmp_path):
    monkeypatch.setenv("JAXIQA_DATA", str(tmp_path))
    experiment = load(name, **parameters)
    check_experiment(experiment)
    check_paper(experiment)
    for label, attack in experiment.evaluation.attacks.items():
        if attack.fit_on is None:
            check_attack(f"evaluation.attacks.{label}", attack, experiment.evaluation)
    for variant in experiment.variants:
        assert describe(experiment, variant, 0)["seed"] == 0
    assert next(iter(experiment.variants)) == "base"
    small = parameters["scale"] == "small"
    assert experiment.data.name == ("clive" if small else "koniq10k")
    assert experiment.name.endswith("_small") == small
    assert experiment.evaluation.score_range == "baseline"


def test_the_two_scales_and_metrics_have_folders_of_their_own():
    names = [load(name, **parameters).name for name, parameters in EACH]
    assert len(set(names)) == len(names)


QUICK = ("tres-small",)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        pytest.param(name, parameters, marks=[] if label.endswith(QUICK) else [pytest.mark.slow], id=label)
        for (name, parameters), label in zip(EACH, IDS, strict=True)
    ],
)
def test_every_variant_can_be_trained_at_both_scales(name, parameters, monkeypatch, tmp_path):
    monkeypatch.setenv("JAXIQA_DATA", str(tmp_path))
    check_training(load(name, **parameters))


@pytest.mark.parametrize(("name", "parameters"), EACH[:6], ids=IDS[:6])
def test_every_block_has_a_bottleneck_of_its_place_and_shape(name, parameters):
    experiment = load(name, **parameters)
    pairs = {"position": "bottleneck", "block": "bottleneck_block"}
    blocks = {label: list(blocks_of(variant).values()) for label, variant in experiment.variants.items()}
    hardened = {label: found for label, found in blocks.items() if found and found[0].kind == "robust_block"}
    assert hardened
    for label, (block,) in hardened.items():
        start, _, rest = label.partition("_")
        control = "bottleneck" if label == "ours" else "_".join(filter(None, [pairs[start], rest]))
        (other,) = blocks[control]
        assert other.kind == "bottleneck"
        assert other.where == block.where
        assert other.options == {key: value for key, value in block.options.items() if key != "unitary"}
        assert experiment.variants[control].training == experiment.variants[label].training
    ours, control = experiment.variants["ours"], experiment.variants["bottleneck"]
    assert (ours.prune, ours.training) == (control.prune, control.training)


def test_the_rows_of_the_tables_are_the_variants_of_the_configs():
    rows = set(robustness_as_architecture.MODELS) | set(robustness_as_architecture.POSITIONS)
    rows |= set(robustness_as_architecture.PRUNINGS)
    for scale in SCALES:
        assert set(load(LINEARITY, scale=scale).variants) == rows
        for name in ("koncept", "tres"):
            assert set(robustness_as_architecture.MODELS) <= set(load(f"{PAPER}/{name}", scale=scale).variants)
    assert set(load(GUARDIANS).variants) == set(guardians.SETUPS)


def test_the_parts_of_linearity_share_their_variants():
    whole = load(LINEARITY, scale="small")
    for part, count in (("main", 7), ("positions", 15), ("prunings", 6)):
        some = load(LINEARITY, scale="small", part=part)
        assert some.name == whole.name
        assert len(some.variants) == count
        assert all(whole.variants[name] == variant for name, variant in some.variants.items())


@pytest.mark.slow
def test_small_positions_have_the_papers_share_of_the_channels():
    experiment = load(LINEARITY, scale="small", part="positions")
    shapes = abstract_models(experiment)
    shares = {1: 1, 2: 1, 3: 1, 4: 1 / 4, 5: 200 / 512, 6: 200 / 1024}
    order = shapes["base"].backbone.order
    places = []
    for position in POSITIONS:
        (block,) = shapes[f"position_{position}"].insertions
        index, channels = shapes["base"].backbone.place(block.where)
        places.append(index)
        assert dict(block.options)["mid"] == round(channels * shares[position])
        frozen = experiment.variants[f"position_{position}"].training.freeze
        assert (order[index - 1] if index else None) == frozen
    assert places == sorted(places)


def test_lpips_is_left_out_without_its_files_and_only_there(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXIQA_DATA", str(tmp_path))
    assert list(load(GUARDIANS, scale="small").variants) == ["base", "ssim_2", "ssim_4", "ssim_8"]
    (tmp_path / "weights").mkdir()
    for name in ("lpips_vgg.pth", "vgg16.pth"):
        (tmp_path / "weights" / name).touch()
    assert set(load(GUARDIANS, scale="small").variants) == set(guardians.SETUPS)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scale": "tiny"}, r"linearity\.py: scale='tiny'; there are 'paper', 'small'"),
        ({"scale": "smal"}, r"scale='smal'; did you mean 'small'\? There are 'paper', 'small'"),
        ({"part": "position"}, r"part='position'; did you mean 'positions'\? There are 'all', 'main'"),
        ({"metric": "tres"}, r"get_config\(\) has no parameter 'metric'; there are 'scale', 'part'"),
    ],
)
def test_a_wrong_scale_names_what_is_allowed(given, message):
    with pytest.raises(ValueError, match=message):
        load(LINEARITY, **given)


def test_a_wrong_paper_names_what_is_allowed():
    experiment = load(LINEARITY)
    other = replace(experiment, evaluation=replace(experiment.evaluation, paper="guardian"))
    with pytest.raises(ValueError, match=r"evaluation\.paper='guardian' is not a paper; choose from 'guardians', 'ro"):
        check_paper(other)
    other = replace(experiment, model=replace(experiment.model, metric="maniqa"))
    with pytest.raises(
        ValueError, match=r"has no table for model\.metric='maniqa', only for linearity, koncept512, tr"
    ):
        check_paper(other)
    check_paper(replace(other, evaluation=replace(experiment.evaluation, paper=None)))
    smoke = load("smoke")
    with pytest.raises(ValueError, match=r"^evaluation\.paper='x' is not a paper"):
        check_evaluation_start(replace(smoke, evaluation=replace(smoke.evaluation, paper="x")))
    check_evaluation_start(replace(smoke, evaluation=replace(smoke.evaluation, paper=PAPER)))


@pytest.mark.parametrize(("name", "parameters"), EACH, ids=IDS)
def test_the_published_protocol_is_compared_with_the_configs(name, parameters):
    """A name is one of the config, or a field of a training that is left open; at the scale of the paper few differ."""
    experiment = load(name, **parameters)
    theirs = facts(experiment.evaluation.paper)["protocol"][experiment.model.metric]
    ours = protocol(experiment, 2015, 1000, experiment.evaluation.size or (299, 299))
    assert all(what in ours or what.partition(": ")[0] in experiment.variants for what in theirs)
    other = {what for what, text in theirs.items() if ours.get(what, text) != text}
    if parameters["scale"] == "paper":
        assert other <= {"labelled images", "attacked images", "base: epochs"}
    else:
        assert {"backbone", "data"} <= other


def write_data(folder):
    """Write data sets of the names and forms that the small scale reads, with computed images and labels."""
    splits = data.load("builtin", size=(72, 96), train=160, val=32, test=3)
    tables = {"clive/scores.csv": ["image,mos,split"], "nips2017/images.csv": ["image"]}
    for part, split in splits.items():
        table = "nips2017/images.csv" if part == "test" else "clive/scores.csv"
        for i in range(len(split)):
            path = folder / Path(table).parent / f"{part}{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(split.read(i)).save(path)
            tables[table].append(path.name if part == "test" else f"{path.name},{split.mos[i]},{part}")
    for table, lines in tables.items():
        (folder / table).write_text("\n".join([*lines, ""]))


@pytest.mark.slow
@pytest.mark.release
def test_a_config_from_training_to_the_papers_table(tmp_path):
    """The main part of Linearity with a narrow network and few images, by the command line, outside the checkout."""
    write_data(tmp_path / "data")
    options = ["--config", LINEARITY, "--scale", "small", "--part", "main", "--workdir", "run"]
    options += ["--model.backbone", "resnet18", "--model.width", "8", "--model.weights", "None"]
    options += ["--model.input-size", "80", "112", "--evaluation.size", "80", "112"]
    options += ["--evaluation.masking", "0", "--evaluation.examples", "0", "--evaluation.ranks.images", "0"]
    for name in load(LINEARITY, part="main").variants:
        training = f"--variants.{name}.training"
        options += [f"{training}.epochs", "6" if name == "base" else "3", f"{training}.freeze", "None"]
        options += [f"{training}.batch-size", "16", f"{training}.backbone-factor", "1.0"]
        options += [f"{training}.crops", "0", f"{training}.crop", "None"]
    for name in ("position_6", "bottleneck_6"):
        options += [f"--variants.{name}.block.where", "position:6", f"--variants.{name}.block.options.mid", "4"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAXIQA_DATA": str(tmp_path / "data")}
    for command in ("train", "evaluate"):
        program = [sys.executable, "-m", "jaxiqa", command, *options]
        done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
    lines = list(csv.DictReader((tmp_path / "run" / "paper_1.csv").open()))
    assert [line["model"] for line in lines] == ["base", "NT", "AT", "ours", "bottleneck (control)"]
    numbers = [name for name in lines[0] if name != "model" and not name.endswith("published")]
    assert all(line[name] for line in lines for name in numbers if not name.startswith("RScore"))
    rows = {line["model"]: line for line in csv.DictReader((tmp_path / "run" / "paper_2.csv").open())}
    assert rows["position 6"]["what"].startswith("robust_block position:6 pool=square")
    assert rows["position 6"]["AbsGain AUC PGD-1"]
    assert rows["position 5"]["AbsGain AUC PGD-1"] == rows["pruning l1"]["SROCC"] == ""
    page = (tmp_path / "run" / "report.html").read_text()
    assert "What differs from the paper" in page
    assert "data: clive; the paper: koniq10k" in page


def test_every_paper_has_a_config():
    papers = {load(name, **parameters).evaluation.paper for name, parameters in EACH}
    assert papers == set(PAPERS)
