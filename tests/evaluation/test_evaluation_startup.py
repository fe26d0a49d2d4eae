"""Faults of an experiment are reported before the work, with the full field name and the remedy."""

import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from configs.smoke import get_config
from jaxiqa.config import Adaptive, Align, Attack, Certifier, Data, Defense, Network, Subset
from jaxiqa.evaluation.images import fitted_on, load_attacked
from jaxiqa.evaluation.startup import check_evaluation_start

OTHERS = Data("builtin", limit=2, options={"size": (33, 47), "train": 64, "val": 32, "test": 32})


def changed(**fields):
    experiment = get_config()
    return replace(experiment, evaluation=replace(experiment.evaluation, **fields))


def attacked(attack, **fields):
    return changed(attacks={"PGD-8": attack}, adaptive=Adaptive(), **fields)


def test_correct_experiments_are_accepted_within_seconds(tmp_path):
    began = time.perf_counter()
    check_evaluation_start(replace(get_config(), workdir=str(tmp_path / "new")))
    assert time.perf_counter() - began < 10


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (Attack("pgdd", (0.1,)), r"evaluation\.attacks\.PGD-8\.name='pgdd' is not an attack; did you mean 'pgd'"),
        (Attack("pgd", (0.1,), {"step": 1}), r"evaluation\.attacks\.PGD-8.*no option 'step'; did you mean 'steps'"),
        (Attack("pgd", (0.1,), {"steps": 0}), r"evaluation\.attacks\.PGD-8: steps=0"),
        (Attack("pgd", (2.0,)), r"evaluation\.attacks\.PGD-8: epsilon=2 is larger.*write 2 / 255"),
        (Attack("square", (0.1, 8.0)), r"evaluation\.attacks\.PGD-8: epsilon=8 is larger.*write 8 / 255"),
        (Attack("pgd", (-0.1,)), r"evaluation\.attacks\.PGD-8: epsilon=-0\.1 is not a strength"),
        (Attack("pgd", (float("nan"),)), "epsilon=nan is not a strength"),
        (Attack("pgd", ()), r"evaluation\.attacks\.PGD-8\.epsilons is empty"),
        (Attack("pgd", (0.1, 0.1)), r"epsilons has 0\.1 twice"),
        (Attack("pgd"), r"evaluation\.attacks\.PGD-8: pgd needs epsilon"),
        (Attack("pgd", (0.1,), {"epsilon": 0.2}), "sets epsilon in options and in epsilons"),
        (Attack("pgd", (0.1,), fit_on=OTHERS), "pgd is not fitted on images; remove fit_on"),
        (Attack("uap", (0.1,)), "uap needs fit_on"),
        (Attack("uap", (0.1,), {"epoch": 2}, fit_on=OTHERS), "uap has no option 'epoch'; did you mean 'epochs'"),
        (Attack("uap", (0.1,), {"method": "best"}, fit_on=OTHERS), r"evaluation\.attacks\.PGD-8: method='best'"),
        (Attack("uap", fit_on=OTHERS), "uap needs epsilons"),
        (Attack("uap", (0.1,), fit_on=OTHERS, fit_split="test"), "is fitted on the attacked split, 'test'"),
        (Attack("uap", (0.1,), fit_on=OTHERS, fit_split="tset"), r"fit_split='tset': .*no split 'tset'"),
        (Attack("facpa", (0.1,), fit_on=OTHERS), "facpa needs network"),
        (
            Attack("zhang", (0.1,), networks={"distance": Network("lpips")}),
            r"evaluation\.attacks\.PGD-8\.networks\.distance\.name='lpips' is not a network; did you mean 'lpips_",
        ),
        (
            Attack("zhang", (0.1,), networks={"distance": Network("dists", "none.pt")}),
            r"evaluation\.attacks\.PGD-8\.networks\.distance: .*none\.pt",
        ),
        (Attack("ifgsm", aligned=Align("psnr", ladder=(0.1, 8.0))), r"evaluation\.attacks\.PGD-8: epsilon=8"),
        (Attack("ifgsm", aligned=Align("psnr", images=0)), r"aligned\.images=0; expected at least 1"),
    ],
)
def test_errors_name_a_wrong_attack(attack, message):
    with pytest.raises(ValueError, match=message):
        check_evaluation_start(attacked(attack))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"defenses": {"a": Defense("jpg")}}, r"evaluation\.defenses\.a: .*'jpg'"),
        ({"defenses": {"a": Defense("jpeg", preset=9)}}, r"evaluation\.defenses\.a: preset=9: jpeg has 5"),
        ({"defenses": {"a": Defense("jpeg", {"qualty": 3})}}, r"evaluation\.defenses\.a: .*'qualty'"),
        ({"defenses": {"a\nb": Defense("flip")}}, r"evaluation\.defenses: 'a\\nb' is not a label"),
        ({"certifiers": {"c": Certifier("rss")}}, r"evaluation\.certifiers\.c: .*'rss'"),
        ({"certifiers": {"c": Certifier("ms", {"n": 0})}}, r"evaluation\.certifiers\.c: n=0"),
        ({"certifiers": {"c": Certifier("ms", images=0)}}, r"evaluation\.certifiers\.c\.images=0; expected at least 1"),
        ({"attacked_split": "tests"}, r"evaluation\.attacked_split='tests': .*no split 'tests'; .*test"),
        ({"split": "tests"}, r"evaluation\.split='tests'"),
        ({"subset": Subset(40)}, r"evaluation\.subset\.count=40 must be .*at most 4"),
        ({"batch_size": 0}, r"evaluation\.batch_size=0; expected at least 1"),
        ({"psnr_cap": 0.0}, r"evaluation\.psnr_cap=0"),
    ],
)
def test_errors_name_other_faults(fields, message):
    with pytest.raises(ValueError, match=message):
        check_evaluation_start(changed(**fields))


def test_a_strength_in_quotes_is_refused():
    attack = Attack("pgd", (0.1,))
    object.__setattr__(attack, "epsilons", ("8/255",))  # bypasses the type checks of the tests
    with pytest.raises(ValueError, match=r"PGD-8: epsilon='8/255' is not a strength.*such as 2 / 255"):
        check_evaluation_start(attacked(attack))


def test_several_faults_are_in_one_error():
    with pytest.raises(ValueError, match=r"2 faults in the evaluation:\n  evaluation.*\n  evaluation") as said:
        check_evaluation_start(attacked(Attack("pgdd"), masking=-1))
    assert "masking=-1" in str(said.value)


def test_an_l2_radius_may_be_larger_than_one():
    check_evaluation_start(attacked(Attack("pgd", (3.0,), {"norm": "l2"})))


def folder(path, names, seed=0):
    path.mkdir(exist_ok=True)
    random = np.random.default_rng(seed)
    for name in names:
        Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(path / name)
    (path / "scores.csv").write_text("image,mos\n" + "".join(f"{name},{i}\n" for i, name in enumerate(names)))
    return Data("folder", source=str(path), options={"split": (0.0, 0.0, 1.0)})


def test_a_missing_score_range_is_an_error_before_the_attacks(tmp_path):
    mine = folder(tmp_path / "mine", [f"{i}.png" for i in range(4)])
    experiment = replace(attacked(Attack("pgd", (0.1,))), data=mine)
    with pytest.raises(ValueError, match=r'score_range="mos" needs mos_range.*write mos_range=.*data\.options'):
        check_evaluation_start(experiment)
    check_evaluation_start(replace(experiment, evaluation=replace(experiment.evaluation, score_range="baseline")))
    ends = replace(mine, options={**mine.options, "mos_range": (0, 5)})
    assert check_evaluation_start(replace(experiment, data=ends)) == []


def test_a_training_without_a_score_range_continues_with_a_note(tmp_path):
    mine = folder(tmp_path / "mine", [f"{i}.png" for i in range(4)])
    (said,) = check_evaluation_start(replace(attacked(Attack("pgd", (0.1,))), data=mine), later=True)
    assert said.startswith('evaluation.score_range="mos" needs mos_range')
    with pytest.raises(ValueError, match=r"pgdd"):  # all else is still an error
        check_evaluation_start(replace(attacked(Attack("pgdd", (0.1,))), data=mine), later=True)


def test_a_file_where_the_folder_should_be_is_named(tmp_path):
    (tmp_path / "run").write_text("")
    for workdir in ("run", "run/deeper"):
        with pytest.raises(ValueError, match=r"workdir: .*/run is a file; choose another --workdir"):
            check_evaluation_start(replace(get_config(), workdir=str(tmp_path / workdir)))


def test_the_digest_of_images_depends_on_pixels_not_names(tmp_path):
    mine, other = folder(tmp_path / "a", ["x.png", "y.png"]), folder(tmp_path / "b", ["p.png"], seed=1)
    evaluation = replace(get_config().evaluation, data=mine)
    images = load_attacked(evaluation)
    apart = Attack("uap", (0.1,), fit_on=other, fit_split="test")
    digest = fitted_on("U", apart, images)
    with Image.open(tmp_path / "a" / "y.png") as image:
        image.save(tmp_path / "b" / "p.png", compress_level=1)  # other bytes, same pixels
    with pytest.raises(ValueError, match=r"attacks\.U is fitted on 1 of the 2 images under attack \(y\.png\)"):
        fitted_on("U", apart, images)
    folder(tmp_path / "b", ["p.png"], seed=2)
    assert fitted_on("U", apart, images) != digest
    assert load_attacked(evaluation).sha256 == images.sha256
    (tmp_path / "a" / "scores.csv").write_text("image,mos\nx.png,0\ny.png,2\n")
    assert load_attacked(evaluation).sha256 != images.sha256
