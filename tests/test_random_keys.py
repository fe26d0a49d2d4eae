"""No random key is used twice: on every path a key is drawn from once, split once, or folded."""

import ast
import itertools
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = [*sorted((ROOT / "jaxiqa").rglob("*.py")), ROOT / "train.py", ROOT / "evaluate.py"]
SPENT = {"split", "fold_in", "key_data"}
DRAWS = {
    "ball", "bernoulli", "beta", "bits", "categorical", "choice", "exponential", "gumbel", "laplace", "normal",
    "permutation", "rademacher", "randint", "truncated_normal", "uniform",
}  # fmt: skip


def kind_of(call):
    """Return how a call uses its first argument as a key ("draw" or a name in `SPENT`), or None."""
    if isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) == "jax.random":
        return call.func.attr if call.func.attr in SPENT else "draw" if call.func.attr in DRAWS else None
    if isinstance(call.func, ast.Name) and call.func.id == "image_keys":
        return "fold_in"
    return None


def uses(node, hidden=frozenset(), ways=()):
    """Yield (line, key, kind, enclosing branches) of every use below ``node``; skip parameters of inner functions.

    The code after an `if` that returns counts as its `else` branch.
    """
    if isinstance(node, ast.FunctionDef | ast.Lambda):
        arguments = node.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        hidden = hidden | {argument.arg for argument in every}
    if isinstance(node, ast.Call) and node.args and (kind := kind_of(node)):
        name = ast.unparse(node.args[0])
        if not {inner.id for inner in ast.walk(node.args[0]) if isinstance(inner, ast.Name)} & hidden:
            yield node.lineno, name, kind, dict(ways)
    for field, value in ast.iter_fields(node):
        now = (*ways, (id(node), field)) if isinstance(node, ast.If | ast.IfExp) and field != "test" else ways
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from uses(child, hidden, now)
            if isinstance(child, ast.If) and isinstance(child.body[-1], ast.Return | ast.Raise):
                now = (*now, (id(child), "orelse"))


def misuses(source):
    """Yield (function, key, kinds) of every key that a function uses in two ways, or splits or draws from twice.

    Allowed: uses in two branches of one `if`, uses before and after an assignment, `fold_in` of several numbers.
    """
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef):
            continue
        assigned = [
            (target.id, node.lineno)
            for node in ast.walk(function)
            if isinstance(node, ast.Assign)
            for target in ast.walk(node.targets[0])
            if isinstance(target, ast.Name)
        ]
        found = sorted(uses(ast.Module(function.body, [])), key=lambda use: use[0])
        for (line, key, kind, ways), (later, other, its_kind, its_ways) in itertools.combinations(found, 2):
            renewed = any(name == key and line <= at < later for name, at in assigned)
            exclusive = any(ways[place] != its_ways[place] for place in ways.keys() & its_ways.keys())
            if key == other and not renewed and not exclusive and not kind == its_kind == "fold_in":
                yield function.name, key, (kind, its_kind)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_function_uses_a_key_twice(file):
    assert list(misuses(file.read_text())) == []


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ("a, b = jax.random.split(key)\n    return jax.random.fold_in(key, 1)", ("split", "fold_in")),
        ("x = jax.random.normal(key)\n    return x + jax.random.uniform(key)", ("draw", "draw")),
        ("a = jax.random.split(key)\n    return jax.random.normal(key)", ("split", "draw")),
        ("a = image_keys(key, 3)\n    return jax.random.split(key)", ("fold_in", "split")),
        ("a, b = jax.random.fold_in(key, 1), jax.random.fold_in(key, 2)\n    return a", None),
        ("key, a = jax.random.split(key)\n    return jax.random.normal(key)", None),
        ("return jax.random.normal(key) if x else jax.random.uniform(key)", None),
        ("if x:\n        return jax.random.normal(key)\n    return jax.random.split(key)", None),
        ("if x:\n        x = jax.random.normal(key)\n    return jax.random.split(key)", ("draw", "split")),
        ("g = lambda key: jax.random.normal(key)\n    return jax.vmap(g)(jax.random.split(key))", None),
        ("g = lambda x: jax.random.normal(key)\n    return g(jax.random.split(key))", ("draw", "split")),
    ],
)
def test_the_scan_finds_reused_keys(body, wrong):
    found = [uses for _, _, uses in misuses(f"def f(key, x):\n    {body}\n")]
    assert found == ([] if wrong is None else [wrong])


@pytest.mark.slow
def test_no_two_purposes_start_from_one_seed():
    """`jax.random.key(seed)` twice in one file gives the same key, so each file calls it once, or with `fold_in`."""
    twice = []
    for file in FILES:
        tree = ast.parse(file.read_text())
        folded = {
            id(node.args[0])
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "jax.random.fold_in"
        }
        made = [
            ast.unparse(node)
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "jax.random.key" and id(node) not in folded
        ]
        twice += [(file.name, one) for one in set(made) if made.count(one) > 1]
    assert twice == []
