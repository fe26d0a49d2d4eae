"""A random network is refused if nothing trains it: in configs, in stages and in the API."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from jaxiqa import attacks, networks
from jaxiqa.config import Attack, Certifier, Data, Defense, Evaluation, Network
from jaxiqa.config.evaluation import check_evaluation
from jaxiqa.defenses import adversarial_batch, purify, smoothing
from jaxiqa.evaluation import build_defense, certify_stage
from jaxiqa.evaluation.networks import load_networks

FIT = Data("builtin", limit=2)


def fresh(name, option="network"):
    return {option: Network(name)}


REFUSED = {
    "attacks": {
        "Zhang": Attack("zhang", networks=fresh("lpips_alex", "distance")),
        "cAdv": Attack("cadv", networks=fresh("siggraph17", "colorize")),
        "FACPA": Attack("facpa", networks=fresh("facpa_unet")),  # not fitted
    },
    "defenses": {name: Defense(name, networks=fresh(name)) for name in ("dncnn", "fcn", "mprnet", "disco")},
    "certifiers": {
        "drs": Certifier("drs", networks=fresh("dncnn", "denoise")),
        "dms": Certifier("dms", networks=fresh("fcn", "denoise")),
        "ddrs": Certifier("ddrs", networks=fresh("adm")),
    },
}
CASES = [(kind, label) for kind, parts in REFUSED.items() for label in parts]


@pytest.mark.parametrize(("kind", "label"), CASES)
def test_a_config_with_a_fresh_network_is_an_error_that_names_the_field(kind, label):
    evaluation = replace(Evaluation(data=FIT, attacks={}), **{kind: {label: REFUSED[kind][label]}})
    with pytest.raises(ValueError, match=rf"evaluation\.{kind}\.{label}\.networks\.\w+ has no weights"):
        check_evaluation(evaluation)


@pytest.mark.parametrize(("kind", "label"), CASES)
def test_a_stage_refuses_a_fresh_network(kind, label):
    chosen = REFUSED[kind][label]
    build = {
        "attacks": lambda: load_networks(chosen.networks),
        "defenses": lambda: build_defense.build(label, chosen),
        "certifiers": lambda: certify_stage.build(label, chosen),
    }[kind]
    with pytest.raises(ValueError, match=r"networks\.\w+\.weights is missing"):
        build()


def test_an_attack_that_trains_its_network_may_start_from_a_fresh_one():
    check_evaluation(Evaluation(data=FIT, attacks={"FACPA": Attack("facpa", networks=fresh("facpa_unet"), fit_on=FIT)}))
    assert load_networks(fresh("fcn"), training=True)["network"].fresh


def random_network(name):
    """Return a stand-in for the result of `networks.build`."""
    return networks.NETWORKS[name].wrap(None, None, fresh=True)


def test_the_repr_of_a_fresh_network_states_it():
    assert networks.build("fcn").fresh
    assert not networks.Network(*nnx.split(networks.FCN(rngs=nnx.Rngs(0)))).fresh


@pytest.mark.parametrize("name", ["dncnn", "fcn", "mprnet", "real_esrgan", "disco", "diffpure"])
def test_a_purifier_refuses_a_fresh_network_and_no_network(name):
    network = random_network("adm" if name == "diffpure" else name)
    for given, message in ((network, "random weights"), (None, "network=None"), (name, f"network='{name}'")):
        with pytest.raises(ValueError, match=message):
            purify.make(name, network=given)
    purify.make(name, network=replace(network, fresh=False))
    with pytest.raises(ValueError, match="needs network"):
        purify.make(name)


@pytest.mark.parametrize(("name", "option"), [(n, "denoise") for n in ("drs", "dms")] + [("ddrs", "network")])
def test_a_certifier_refuses_a_fresh_network_when_it_is_made(name, option):
    options = {} if name == "dms" else {"score_range": (0.0, 1.0)}
    with pytest.raises(ValueError, match=f"{option} has random weights"):
        smoothing.make(name, **options, **{option: random_network("dncnn")})
    with pytest.raises(Exception, match=f"{option}"):  # ValueError, or the type checker's error if it comes first
        smoothing.make(name, **options, **{option: "dncnn"})


def test_attacks_and_adversarial_training_refuse_a_fresh_distance():
    distance = random_network("lpips_alex")
    with pytest.raises(ValueError, match="distance has random weights"):
        attacks.make("zhang", distance=distance)
    with pytest.raises(ValueError, match="colorize has random weights"):
        attacks.make("cadv", colorize=random_network("siggraph17"))
    images, mos = jnp.full((2, 12, 12, 3), 0.5), jnp.array([10.0, 90.0])
    with pytest.raises(ValueError, match="distance has random weights"):
        adversarial_batch(
            lambda f, x, k: x, lambda x: x.mean((1, 2, 3)), images, mos, jax.random.key(0), low=0, high=100,
            distance=distance,
        )  # fmt: skip


def test_weights_none_is_not_a_file_name():
    with pytest.raises(ValueError, match="weights=None: dncnn needs a file"):
        networks.load("dncnn", weights=None)


def test_a_network_is_read_once_while_its_file_is_unchanged(tmp_path, monkeypatch):
    path = tmp_path / "fcn.safetensors"
    networks.save("fcn", networks.build("fcn", seed=1), path)
    chosen, load, read = {"network": Network("fcn", str(path))}, networks.load, []
    monkeypatch.setattr(networks, "load", lambda name, **files: read.append(name) or load(name, **files))
    first, again = load_networks(chosen)["network"], load_networks(dict(chosen))["network"]
    assert first is again
    assert len(read) == 1
    networks.save("fcn", networks.build("fcn", seed=2), path)
    other = load_networks(chosen)["network"]
    assert len(read) == 2
    x = jnp.full((1, 4, 5, 3), 0.3)
    assert not jnp.array_equal(first(x), other(x))
