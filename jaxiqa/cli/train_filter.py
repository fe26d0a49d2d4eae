"""Train a small purifier in minutes: a filter that takes an attack off pictures, or a denoiser.

    jaxiqa train-filter fcn.safetensors --model RUN_FOLDER
    jaxiqa train-filter dncnn.safetensors --network dncnn --sigma 0.12

The filter (fcn) learns from pairs: a picture after an attack on the metric in RUN_FOLDER, which train.py made, and the
picture before it. The denoiser (dncnn) learns from Gaussian noise. Both minimise the squared error by Adam; four fifths
of the pictures are learned from, and what did best on the others, by SSIM, is kept. Kill it whenever you like: the same
command goes on exactly where it was, from the folder OUT.run.
"""

import io
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jaxiqa.cli.options import options_last, parse_options
from jaxiqa.cli.runtime import explained


@dataclass(frozen=True)
class Arguments:
    """What to train, on what."""

    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT.safetensors")]
    """The file to write, in the place of one that the same command wrote; jaxiqa.networks.load reads it."""
    network: Literal["fcn", "dncnn"] = "fcn"
    """The filter with 11,459 numbers, or a denoiser."""
    model: Path | None = None
    """For fcn: the folder of a metric that train.py trained."""
    attack: str = "ifgsm"
    """For fcn: an attack on it."""
    attack_options: tuple[str, ...] = ("epsilon=0.0314",)
    """For fcn: options of the attack, in units of [0, 1]."""
    sigma: float = 0.12
    """For dncnn: standard deviation of the noise, in units of [0, 1]."""
    depth: int = 7
    """For dncnn: number of convolutions; 17 in the paper."""
    width: int = 32
    """For dncnn: channels between them; 64 in the paper."""
    data: str = "builtin"
    """A data set of jaxiqa.data; its scores are not used."""
    source: str | None = None
    """Its folder, below $JAXIQA_DATA."""
    limit: int = 200
    """At most so many pictures, the first ones."""
    size: tuple[int, int] | None = None
    """Height and width that pictures are resized to; without it they must be of one size."""
    epochs: int = 40
    """Passes over the pictures; 200 in the benchmark. More can be given later, to go on."""
    batch_size: int = 4
    """Pictures per step."""
    learning_rate: float = 1e-3
    """Of Adam."""
    seed: int = 0
    """Of the first numbers, the division of the pictures, their order, the attack and the noise."""


def main(arguments: Sequence[str] | None = None, program: str = "jaxiqa train-filter") -> None:
    """The command line."""
    words = options_last(sys.argv[1:] if arguments is None else arguments, "--attack-options")
    with explained("finished epochs are kept; run the same command again to go on"):
        run(tyro.cli(Arguments, prog=program, description=__doc__, args=words))


def run(arguments: Arguments) -> None:
    """Check, train, and say what it brought."""
    from jaxiqa.cli.runtime import start_jax
    from jaxiqa.core.files import locked
    from jaxiqa.core.progress import say

    began = time.perf_counter()
    check(arguments)
    start_jax()
    with locked(run_folder(arguments)):
        best, before = train(arguments)
    minutes = (time.perf_counter() - began) / 60
    say(f"{arguments.out}: SSIM {before:.4f} -> {best:.4f} on the pictures set aside, {minutes:.1f} minutes")


def check(arguments: Arguments) -> None:
    """Raise ``ValueError`` for what cannot work, before anything is computed."""
    from jaxiqa.core.checks import check_number
    from jaxiqa.core.files import check_file, check_folder

    for name, low in (("epochs", 1), ("batch_size", 1), ("learning_rate", 0.0), ("sigma", 0.0), ("limit", 2)):
        check_number(name, getattr(arguments, name), low)
    if arguments.out.suffix != ".safetensors":
        raise ValueError(f"out={str(arguments.out)!r} must end in .safetensors")
    if check_file("out", arguments.out).exists() and not (run_folder(arguments) / "config.json").exists():
        raise ValueError(
            f"out: {arguments.out} exists, and {run_folder(arguments)} does not; move it or choose another"
        )
    check_folder(run_folder(arguments))
    if arguments.network == "fcn" and arguments.model is None:
        raise ValueError("model is missing: fcn learns from attacks on a metric; give the folder of one by train.py")
    if arguments.network == "fcn":
        from jaxiqa import attacks

        attacks.make(arguments.attack, **parse_options(arguments.attack_options))
    else:
        check_number("depth", arguments.depth, 3, 64)
        check_number("width", arguments.width, 1)


def run_folder(arguments: Arguments) -> Path:
    """What an unfinished run keeps."""
    return arguments.out.with_name(f"{arguments.out.name}.run")


def train(arguments: Arguments) -> tuple[float, float]:
    """Pictures -> pairs -> training -> file; the best SSIM, and that of the pictures as they were given."""
    import jax
    import numpy as np
    from flax import nnx

    from jaxiqa import networks
    from jaxiqa.core.progress import progress_bar
    from jaxiqa.train.checkpoint import Checkpoints
    from jaxiqa.train.filter import keep_best, learn, start

    folder, epochs, batch_size = run_folder(arguments), arguments.epochs, arguments.batch_size
    clean = pictures(arguments)
    forget_start(folder)
    same_run(arguments, folder, clean)
    division, order, noise, noise_aside, weights, of_attack = jax.random.split(jax.random.key(arguments.seed), 6)
    attacked = attacked_pictures(arguments, clean, folder, of_attack) if arguments.network == "fcn" else None
    divided = np.asarray(jax.random.permutation(division, len(clean)))
    aside, learned = np.split(divided, [math.ceil(len(clean) / 5)])
    pairs = Pairs(clean, attacked, arguments.sigma)
    sizes = {"depth": arguments.depth, "width": arguments.width} if arguments.network == "dncnn" else {}
    module = networks.NETWORKS[arguments.network].build(**sizes, rngs=nnx.Rngs(weights))
    training, using, state = start(module)
    batches = math.ceil(len(learned) / batch_size)
    with Checkpoints(folder / "checkpoints") as checkpoints, progress_bar(arguments.network, "steps") as bar:
        done, state = checkpoints.restore(state) or (0, state)
        for epoch in range(done, epochs):
            shuffled = np.asarray(jax.random.permutation(jax.random.fold_in(order, epoch), learned))
            for i, indices in enumerate(np.resize(shuffled, (batches, batch_size))):  # the last one begins anew
                step = epoch * batches + i
                given, wanted = pairs.take(indices, jax.random.fold_in(noise, step))
                state = learn(training, state, given, wanted, arguments.learning_rate)
                bar(step + 1, batches * epochs, f"SSIM {float(state['best_ssim']):.4f}")
            state = keep_best(state, mean_ssim(pairs, aside, noise_aside, batch_size, using, state))
            checkpoints.save(epoch + 1, state)
    network = networks.Network(*nnx.split(nnx.merge(using, *state["best"].values())))
    networks.save(arguments.network, network, arguments.out, **sizes)
    return float(state["best_ssim"]), mean_ssim(pairs, aside, noise_aside, batch_size)


def same_run(arguments: Arguments, folder: Path, clean: Any) -> None:
    """Write down what is trained, on which pictures; refuse a folder of something else."""
    from jaxiqa.core.files import write_text

    described = describe(arguments, clean)
    file = folder / "config.json"
    try:
        before = json.loads(file.read_text()) if file.exists() else {}
        fields = [name for name in described if name in before and before[name] != described[name]]
    except (ValueError, TypeError):
        raise ValueError(f"{file} is damaged; restore it, or delete {folder}, or choose another OUT") from None
    if fields:
        raise ValueError(f"{folder} is of a run with other {', '.join(fields)}; delete it, or choose another OUT")
    write_text(file, json.dumps(described, indent=1))


def forget_start(folder: Path) -> None:
    """Delete what describes a run without a checkpoint, so that a start which came to nothing can be corrected."""
    from jaxiqa.core.files import remove_leftovers
    from jaxiqa.train.runs import holds_work

    remove_leftovers(folder)
    if not holds_work(folder):
        (folder / "config.json").unlink(missing_ok=True)


def describe(arguments: Arguments, clean: Any) -> dict[str, Any]:
    """What decides a run, as JSON gives it back."""
    import hashlib

    described = {name: value for name, value in asdict(arguments).items() if name not in ("out", "epochs")}
    if arguments.model is not None:
        card = arguments.model / "model.json"
        if not card.is_file():
            raise FileNotFoundError(f"model: {arguments.model} holds no trained metric (model.json)")
        described["model"] = json.loads(card.read_text()).get("sha256")
    described["pictures"] = hashlib.sha256(clean.tobytes()).hexdigest()
    return json.loads(json.dumps(described))


def pictures(arguments: Arguments) -> Any:
    """The pictures, uint8 ``n h w 3``: of the split train, or of the only one there is."""
    import numpy as np

    from jaxiqa import data
    from jaxiqa.data.pipeline import resize

    splits = data.load(arguments.data, source=arguments.source, limit=arguments.limit)
    split = splits.get("train") or next(iter(splits.values()))
    if arguments.size is None:
        data.validate(split, uniform=True)
    found = np.stack([resize(split.read(index), arguments.size) for index in range(len(split))])
    if len(found) < 2:
        raise ValueError(f"{split.name} has {len(found)} picture; training needs some to learn from and some beside")
    return found


def attacked_pictures(arguments: Arguments, clean: Any, folder: Path, key: Any) -> Any:
    """The same after the attack, rounded to 8 bits (to nearest); computed once, and kept for a run that goes on.

    Behind them is a SHA-256 digest of them and of what they were made with; where it does not fit, they are made again.
    """
    import hashlib

    import jax.numpy as jnp
    import numpy as np

    from jaxiqa import attacks, models
    from jaxiqa.core.files import write_bytes
    from jaxiqa.core.keys import image_keys
    from jaxiqa.core.progress import note, progress_bar

    file = folder / "attacked.npy"
    described = describe(arguments, clean)
    made_with = repr([described[name] for name in ("model", "attack", "attack_options", "seed", "pictures")]).encode()
    if file.exists():
        content = file.read_bytes()
        if hashlib.sha256(content[:-32] + made_with).digest() == content[-32:]:
            return np.load(io.BytesIO(content))
        note(f"{file} is damaged or of another attack, and is made again")
    attack = attacks.make(arguments.attack, **parse_options(arguments.attack_options))
    score = models.score_fn(models.load_run(arguments.model))
    keys = image_keys(key, len(clean))
    found = np.empty_like(clean)
    with progress_bar(arguments.attack, "pictures") as bar:
        for first in range(0, len(clean), arguments.batch_size):
            chosen = np.minimum(np.arange(first, first + arguments.batch_size), len(clean) - 1)
            attacked = attack(score, jnp.asarray(clean[chosen], jnp.float32) / 255, keys[chosen])
            found[chosen] = np.rint(np.asarray(attacked) * 255).astype(np.uint8)
            bar(min(first + arguments.batch_size, len(clean)), len(clean), "")
    buffer = io.BytesIO()
    np.save(buffer, found)
    write_bytes(file, buffer.getvalue() + hashlib.sha256(buffer.getvalue() + made_with).digest())
    return found


@dataclass(frozen=True)
class Pairs:
    """Pictures as they are, and after an attack; or, without one, with noise. uint8 ``n h w 3``."""

    clean: Any
    attacked: Any
    sigma: float

    def take(self, indices: Any, key: Any) -> tuple[Any, Any]:
        """What the network is given, and what it should make of it, float32 ``b h w 3``."""
        import jax
        import jax.numpy as jnp

        wanted = jnp.asarray(self.clean[indices], jnp.float32) / 255
        if self.attacked is not None:
            return jnp.asarray(self.attacked[indices], jnp.float32) / 255, wanted
        return wanted + self.sigma * jax.random.normal(key, wanted.shape), wanted


def mean_ssim(pairs: Pairs, indices: Any, key: Any, batch_size: int, using: Any = None, state: Any = None) -> float:
    """Of what the network makes of these pictures; without a network, of what it would be given."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxiqa.ops.ssim import ssim
    from jaxiqa.train.filter import quality

    scores: list[float] = []
    for first in range(0, len(indices), batch_size):
        chosen = indices[np.minimum(np.arange(first, first + batch_size), len(indices) - 1)]
        given, wanted = pairs.take(chosen, jax.random.fold_in(key, first))
        found = ssim(jnp.clip(given, 0, 1), wanted) if using is None else quality(using, state, given, wanted)
        scores += found[: len(indices) - first].tolist()
    return float(np.mean(scores))
