"""The conventions of public functions: order of arguments, keys, options, and what a docstring contains."""

import ast
import importlib
import inspect
import pkgutil
import textwrap

import pytest

import jaxiqa

LISTED = ("attacks", "data", "defenses", "defenses.purify", "defenses.smoothing", "evaluation")
LISTED += ("layers", "lipschitz", "models", "networks", "reports")
"""Packages whose public names are in ``__all__``."""
WHOLE = ("measures", "ops")
"""Packages in which every function of every file is public."""
BEFORE_IMAGES = {"features_fn", "attack", "score_fn", "runner"}
BY_POSITION = {
    "attack_runner": "fitted",
    "average_pool": "stride",
    "average_pool_constant": "stride",
    "blend": "share",
    "build": "backbone",
    "bpda": "surrogate",
    "certified_interval": "norm",
    "deviation": "gather",
    "export": "shape",
    "fold_batch_norm": "size",
    "gradient_norms": "norm",
    "group_sort": "size",
    "harden": "kind",
    "l2_pool": "stride",
    "load": "weights",
    "largest_slope": "norm",
    "score_fn": "image_size",
    "separable_filter": "border",
    "to_unitary": "method",
}
"""The one option of a function that may be given by position: callers usually give it. All others need their names."""


def public():
    found = {f"jaxiqa.{name}": getattr(jaxiqa, name) for name in jaxiqa.__all__}
    for room in LISTED:
        package = importlib.import_module(f"jaxiqa.{room}")
        found |= {f"{room}.{name}": getattr(package, name) for name in package.__all__}
    for room in WHOLE:
        package = importlib.import_module(f"jaxiqa.{room}")
        for file in pkgutil.iter_modules(package.__path__, f"jaxiqa.{room}."):
            module = importlib.import_module(file.name)
            own = {name: value for name, value in vars(module).items() if not name.startswith("_")}
            own = {name: value for name, value in own.items() if getattr(value, "__module__", "") == file.name}
            found |= {f"{file.name.removeprefix('jaxiqa.')}.{name}": value for name, value in own.items()}
    return {name: inspect.unwrap(value) for name, value in found.items() if inspect.isfunction(inspect.unwrap(value))}


FUNCTIONS = public()


def faults(function):
    """What in a function is against the conventions."""
    parameters = list(inspect.signature(function).parameters.values())
    names = [parameter.name for parameter in parameters]
    doc = function.__doc__ or ""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    called = {ast.unparse(node.func).rpartition(".")[2] for node in ast.walk(tree) if isinstance(node, ast.Call)}
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    if "images" in names and not set(names[: names.index("images")]) <= BEFORE_IMAGES:
        yield f"images come after {names[: names.index('images')]}"
    draws = any(
        isinstance(node, ast.Attribute) and ast.unparse(node).startswith(("jax.random.", "np.random."))
        for node in ast.walk(tree)
    )
    if draws and not {"key", "seed", "rngs"} & set(names):
        yield "uses random numbers without a key"
    if "key" in names and "key" not in used:
        yield "has a key and does not use it"
    by_position = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is not p.empty]
    if by_position not in ([], [BY_POSITION.get(function.__name__)]):
        yield f"options that need no name: {by_position}"
    if any(p.annotation is p.empty for p in parameters):
        yield "an argument without a type"
    if "return" not in function.__annotations__:
        yield "no type of the result"
    if ">>> " not in doc:
        yield "no example"
    raises = any(isinstance(node, ast.Raise) for node in ast.walk(tree)) or any(
        name.startswith("check_") for name in called
    )
    if raises and "Raise" not in doc:
        yield "raises errors that the docstring does not name"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_public_function_follows_the_conventions(name):
    assert list(faults(FUNCTIONS[name])) == []


def test_all_public_functions_are_looked_at():
    assert len(FUNCTIONS) > 100
    assert {"attacks.sweep", "jaxiqa.load", "lipschitz.report", "measures.robustness.r_score", "ops.ssim.ssim"} <= set(
        FUNCTIONS
    )
    assert set(BY_POSITION) <= {name.rpartition(".")[2] for name in FUNCTIONS}


def test_the_conventions_notice_what_they_are_for():
    import jax

    def worse(size, images, key, mode="a"):
        check_mode(mode)  # noqa: F821
        return jax.random.normal(key, images.shape)

    def without_key(images):
        """Add noise."""
        return images + jax.random.normal(jax.random.key(0), images.shape)

    assert list(faults(worse)) == [
        "images come after ['size']",
        "options that need no name: ['mode']",
        "an argument without a type",
        "no type of the result",
        "no example",
        "raises errors that the docstring does not name",
    ]
    assert "uses random numbers without a key" in list(faults(without_key))
