"""Train a small purifier in minutes: a filter that removes an attack from images, or a denoiser.

    jaxiqa train-filter fcn.safetensors --model RUN_FOLDER
    jaxiqa train-filter dncnn.safetensors --network dncnn --sigma 0.12

The filter (fcn) is trained on pairs: an image after an attack on the metric in RUN_FOLDER, which train.py made, and the
image before it. The denoiser (dncnn) is trained on Gaussian noise. Both minimise the squared error by Adam. Four fifths
of the images are for training; the weights with the best SSIM on the others (validation) are kept. You may stop it at
any time: the same command continues exactly from there, from the folder OUT.run.
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
    """Arguments of the program."""

    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT.safetensors")]
    """File to write, which jaxiqa.networks.load reads; a file that the same command wrote is replaced."""
    network: Literal["fcn", "dncnn"] = "fcn"
    """fcn: a filter with 11,459 parameters; dncnn: a denoiser."""
    model: Path | None = None
    """For fcn: folder of a metric that train.py trained."""
    attack: str = "ifgsm"
    """For fcn: attack on this metric."""
    attack_options: tuple[str, ...] = ("epsilon=0.0314",)
    """For fcn: options of the attack, in units of [0, 1]."""
    sigma: float = 0.12
    """For dncnn: standard deviation of the noise, in units of [0, 1]."""
    depth: int = 7
    """For dncnn: number of convolutions; 17 in the paper."""
    width: int = 32
    """For dncnn: channels of the hidden layers; 64 in the paper."""
    data: str = "builtin"
    """A data set of jaxiqa.data; its scores are not used."""
    source: str | None = None
    """Folder of the data set, below $JAXIQA_DATA."""
    limit: int = 200
    """Most images to use, the first ones."""
    size: tuple[int, int] | None = None
    """Height and width to which images are resized; without it, all images must have one size."""
    epochs: int = 40
    """Passes over the images; 200 in the benchmark. A finished run continues with more epochs."""
    batch_size: int = 4
    """Images per step."""
    learning_rate: float = 1e-3
    """Learning rate of Adam."""
    seed: int = 0
    """Seed of the initial weights, the split of the images, their order, the attack and the noise."""


def main(arguments: Sequence[str] | None = None, program: str = "jaxiqa train-filter") -> None:
    """Run the command line."""
    words = options_last(sys.argv[1:] if arguments is None else arguments, "--attack-options")
    with explained("finished epochs are kept; run the same command again to continue"):
        run(tyro.cli(Arguments, prog=program, description=__doc__, args=words))


def run(arguments: Arguments) -> None:
    """Check the arguments, train, and print the result."""
    from jaxiqa.cli.runtime import start_jax
    from jaxiqa.core.files import locked
    from jaxiqa.core.progress import say

    began = time.perf_counter()
    check(arguments)
    start_jax()
    with locked(run_folder(arguments)):
        best, before = train(arguments)
    minutes = (time.perf_counter() - began) / 60
    say(f"{arguments.out}: SSIM {before:.4f} -> {best:.4f} on the validation images, {minutes:.1f} minutes")


def check(arguments: Arguments) -> None:
    """Check the arguments before anything is computed; raise ``ValueError`` if one is wrong."""
    from jaxiqa.core.checks import check_number
    from jaxiqa.core.files import check_file, check_folder

    for name, low in (("epochs", 1), ("batch_size", 1), ("learning_rate", 0.0), ("sigma", 0.0), ("limit", 2)):
        check_number(name, getattr(arguments, name), low)
    if arguments.out.suffix != ".safetensors":
        raise ValueError(f"out={str(arguments.out)!r} must end in .safetensors")
    if check_file("out", arguments.out).exists() and not (run_folder(arguments) / "config.json").exists():
        raise ValueError(
            f"out: {arguments.out} exists, and {run_folder(arguments)} does not; move it or choose another OUT"
        )
    check_folder(run_folder(arguments))
    if arguments.network == "fcn" and arguments.model is None:
        raise ValueError("model is missing: fcn is trained on attacks on a metric; give the run folder of a metric")
    if arguments.network == "fcn":
        from jaxiqa import attacks

        attacks.make(arguments.attack, **parse_options(arguments.attack_options))
    else:
        check_number("depth", arguments.depth, 3, 64)
        check_number("width", arguments.width, 1)


def run_folder(arguments: Arguments) -> Path:
    """Return the folder of the checkpoints of a run."""
    return arguments.out.with_name(f"{arguments.out.name}.run")


def train(arguments: Arguments) -> tuple[float, float]:
    """Load images, make pairs, train, and write the file; return the best SSIM and the SSIM without the network."""
    import jax
    import numpy as np
    from flax import nnx

    from jaxiqa import networks
    from jaxiqa.core.progress import progress_bar
    from jaxiqa.train.checkpoint import Checkpoints
    from jaxiqa.train.filter import keep_best, learn, start

    folder, epochs, batch_size = run_folder(arguments), arguments.epochs, arguments.batch_size
    clean = load_images(arguments)
    forget_start(folder)
    same_run(arguments, folder, clean)
    division, order, noise, noise_aside, weights, of_attack = jax.random.split(jax.random.key(arguments.seed), 6)
    attacked = attacked_images(arguments, clean, folder, of_attack) if arguments.network == "fcn" else None
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
            for i, indices in enumerate(np.resize(shuffled, (batches, batch_size))):  # the last batch is padded
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
    """Store what is trained and on which images; raise ``ValueError`` if the folder holds another run."""
    from jaxiqa.core.files import write_text

    described = describe(arguments, clean)
    file = folder / "config.json"
    try:
        before = json.loads(file.read_text()) if file.exists() else described
        fields = [name for name in described if name not in before or before[name] != described[name]]
    except (ValueError, TypeError):
        raise ValueError(f"{file} is damaged; restore it, delete {folder}, or choose another OUT") from None
    if fields:
        raise ValueError(f"{folder} holds a run with different {', '.join(fields)}; delete it or choose another OUT")
    write_text(file, json.dumps(described, indent=1))


def forget_start(folder: Path) -> None:
    """Delete the description of a run without a checkpoint, so that a failed start can be corrected."""
    from jaxiqa.core.files import remove_leftovers
    from jaxiqa.train.runs import holds_work

    remove_leftovers(folder)
    if not holds_work(folder):
        (folder / "config.json").unlink(missing_ok=True)


def describe(arguments: Arguments, clean: Any) -> dict[str, Any]:
    """Return what decides a run, as JSON data."""
    import hashlib

    described = {name: value for name, value in asdict(arguments).items() if name not in ("out", "epochs")}
    if arguments.model is not None:
        card = arguments.model / "model.json"
        if not card.is_file():
            raise FileNotFoundError(f"model: {arguments.model} holds no trained metric (model.json is missing)")
        described["model"] = json.loads(card.read_text()).get("sha256")
    described["images"] = hashlib.sha256(clean.tobytes()).hexdigest()
    return json.loads(json.dumps(described))


def load_images(arguments: Arguments) -> Any:
    """Load the images, uint8 ``n h w 3``, of the split train, or of the first split if there is no train."""
    import numpy as np

    from jaxiqa import data
    from jaxiqa.data.pipeline import resize

    splits = data.load(arguments.data, source=arguments.source, limit=arguments.limit)
    split = splits.get("train") or next(iter(splits.values()))
    if arguments.size is None:
        data.validate(split, uniform=True)
    found = np.stack([resize(split.read(index), arguments.size) for index in range(len(split))])
    if len(found) < 2:
        raise ValueError(f"{split.name} has {len(found)} image; expected at least 2 (training and validation)")
    return found


def attacked_images(arguments: Arguments, clean: Any, folder: Path, key: Any) -> Any:
    """Attack the images and round them to 8 bits (to nearest); computed once and stored for a continued run.

    The file ends with a SHA-256 digest of the images and of the options; if it does not match, they are made again.
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
    made_with = repr([described[name] for name in ("model", "attack", "attack_options", "seed", "images")]).encode()
    if file.exists():
        content = file.read_bytes()
        if hashlib.sha256(content[:-32] + made_with).digest() == content[-32:]:
            return np.load(io.BytesIO(content))
        note(f"{file} is damaged or for another attack; it is made again")
    attack = attacks.make(arguments.attack, **parse_options(arguments.attack_options))
    score = models.score_fn(models.load_run(arguments.model))
    keys = image_keys(key, len(clean))
    found = np.empty_like(clean)
    with progress_bar(arguments.attack, "images") as bar:
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
    """Training pairs: clean images, and attacked images or images with noise. uint8 ``n h w 3``."""

    clean: Any
    attacked: Any
    sigma: float

    def take(self, indices: Any, key: Any) -> tuple[Any, Any]:
        """Return the inputs and the targets of the network, float32 ``b h w 3``."""
        import jax
        import jax.numpy as jnp

        wanted = jnp.asarray(self.clean[indices], jnp.float32) / 255
        if self.attacked is not None:
            return jnp.asarray(self.attacked[indices], jnp.float32) / 255, wanted
        return wanted + self.sigma * jax.random.normal(key, wanted.shape), wanted


def mean_ssim(pairs: Pairs, indices: Any, key: Any, batch_size: int, using: Any = None, state: Any = None) -> float:
    """Return the mean SSIM of the network's outputs for these images; without a network, of its inputs."""
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
