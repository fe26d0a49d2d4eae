"""Arithmetic of the training of each variant of a config: TFLOPs of its convolutions and matrix products.

    RUN="--config configs/hardening_study.py --workdir runs/hardening --out benchmarks/hardening/costs.json"
    JAXIQA_DATA=/path/to/data python benchmarks/training_cost.py $RUN --variants longer at recommended

Every variant is prepared as for its training on fold 0, up to the first step, whose program is traced but not run. So
its parents must be trained (`benchmarks/hardening.py` with the same folder does it); their training is not counted. A
multiplication and an addition are two operations; loops count as often as they run.
"""

import argparse
import functools
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jax
from hardening import with_parents

from jaxiqa.cli.runtime import start_jax
from jaxiqa.config import Experiment, folded, load_config, run_folder, trained_variants
from jaxiqa.core.files import write_text
from jaxiqa.train import loop
from jaxiqa.train.experiment import load_data, train_variant
from jaxiqa.train.parallel import parallel_program
from jaxiqa.train.startup import check_files

PRODUCTS = {"conv_general_dilated", "dot_general"} | {
    f"jaxiqa_{kernel}{part}" for kernel in ("depthwise", "product") for part in ("", "_by_x", "_by_kernel")
}
"""Primitives that multiply and add: JAX's, and those of `jaxiqa.nn.kernels`."""


class Counted(Exception):
    """The operations of a step: ends a training before its first one."""


def operations(jaxpr: Any) -> float:
    """Return the number of multiplications and additions in the convolutions and matrix products of a program.

    >>> program = jax.make_jaxpr(lambda x: jax.lax.fori_loop(0, 3, lambda _, x: x @ x, x))(jax.numpy.ones((4, 4)))
    >>> operations(program.jaxpr)
    384.0
    """
    total = 0.0
    for eqn in jaxpr.eqns:
        inner = [operations(program) for program in _inner(eqn.params.values())]
        if inner:
            total += sum(inner) * (eqn.params["length"] if eqn.primitive.name == "scan" else 1)
        elif eqn.primitive.name in PRODUCTS:
            arguments = tuple((value.aval.shape, value.aval.dtype) for value in eqn.invars)
            total += _of_one(eqn.primitive, arguments, tuple(sorted(eqn.params.items())))
    return total


@functools.cache
def _of_one(primitive: Any, arguments: tuple, options: tuple) -> float:
    """Ask XLA, which leaves out the zeros between the pixels of the gradient of a strided layer."""
    shapes = [jax.ShapeDtypeStruct(*argument) for argument in arguments]
    lowered = jax.jit(lambda *given: primitive.bind(*given, **dict(options))).lower(*shapes)
    return lowered.cost_analysis()["flops"]


def _inner(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, tuple | list):
            yield from _inner(value)
        elif hasattr(value := getattr(value, "jaxpr", value), "eqns"):
            yield value


def counting(step: Callable, **options: Any) -> Callable:
    """Stand in for `jaxiqa.train.parallel.stoppable`: raise `Counted` instead of running a step."""
    program, _ = parallel_program(step, backend="shard_map", devices=jax.devices()[:1])

    def run(state: Any, constants: Any, batch: Any, signals: Any) -> Any:
        raise Counted(operations(jax.make_jaxpr(program)(state, constants, batch).jaxpr))

    return run


def of_training(experiment: Experiment, name: str, splits: dict) -> float:
    """Return the TFLOPs of the training of one variant, without that of its parents."""
    parts = with_parents(experiment, name)
    with tempfile.TemporaryDirectory() as folder:
        given = replace(experiment, variants=parts, workdir=folder)
        for parent in parts:
            if parent != name:
                shutil.copytree(run_folder(experiment, parent, 0), run_folder(given, parent, 0))
        training = trained_variants(given)[name].training
        assert training.epochs
        assert training.batch_size
        steps = training.epochs * (len(splits["train"]) * (training.crops or 1) // training.batch_size)
        try:
            with patch.object(loop, "stoppable", counting):
                train_variant(given, name, 0, splits, {}, check_files(given, [name]))
        except Counted as counted:
            return counted.args[0] * steps / 1e12
    raise AssertionError("the training took no step")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, type=Path)
    parser.add_argument("--workdir", required=True, type=Path, help="folder of the trained models")
    parser.add_argument("--out", required=True, type=Path, help="a JSON file: variant -> TFLOPs")
    parser.add_argument("--variants", nargs="+", required=True)
    parser.add_argument("--folds", type=int, default=5)
    given = parser.parse_args()
    start_jax()
    experiment = folded(replace(load_config(given.config), folds=given.folds, workdir=str(given.workdir)))[0]
    if unknown := set(given.variants) - set(trained_variants(experiment)):
        parser.error(f"--variants: {', '.join(sorted(unknown))} is not trained in this config")
    splits, found = load_data(experiment, []), json.loads(given.out.read_text()) if given.out.exists() else {}
    for name in given.variants:
        found[name] = round(of_training(experiment, name, splits), 2)
        print(f"{name}: {found[name]:.2f} TFLOPs", flush=True)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(given.out, json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
