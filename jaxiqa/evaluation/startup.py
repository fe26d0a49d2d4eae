"""Check an evaluation in a few seconds, before anything is trained or attacked."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxiqa import attacks
from jaxiqa.attacks.wrappers.align import LEVELS
from jaxiqa.config import Attack, Certifier, Defense, Evaluation, Experiment, Ranks, root_folder
from jaxiqa.config.suggest import suggestion
from jaxiqa.core.checks import check_choice
from jaxiqa.core.files import check_labels
from jaxiqa.evaluation import build_defense, certify_stage
from jaxiqa.evaluation.images import load_split
from jaxiqa.evaluation.networks import load_networks
from jaxiqa.evaluation.paper_run import check_paper
from jaxiqa.networks import NETWORKS


def check_evaluation_start(experiment: Experiment, *, later: bool = False) -> list[str]:
    """Find all faults that would stop an evaluation later; report each with the full name of its field and a remedy.

    It checks labels; names, options, strengths and networks of attacks, defenses and certifiers, by building them; the
    splits of the images, whether their labels suit `Evaluation.score_range`, and their numbers. Images are not decoded.
    Each network is read once.

    Args:
        experiment: the experiment.
        later: True before a training; then a missing ``mos_range`` is a remark instead of an error.

    Returns:
        Remarks: faults that do not stop a training.

    Raises:
        ValueError: one message for all faults, one line each.
    """
    evaluation, problems, remarks = experiment.evaluation, [], []
    root = root_folder(experiment)
    for path in (root, *root.parents):
        if path.exists() and not path.is_dir():
            problems.append(f"workdir: {path} is a file; choose another --workdir")

    def attempt(where: str, check: Callable[[], Any]) -> None:
        try:
            check()
        except (ValueError, TypeError, OSError) as error:
            text = str(error)
            problems.append(text if text.startswith("evaluation.") else f"{where}: {text}")

    groups: dict[str, Mapping[str, Any]] = {
        "attacks": evaluation.attacks,
        "defenses": evaluation.defenses,
        "certifiers": evaluation.certifiers,
    }
    for group, parts in groups.items():
        attempt(f"evaluation.{group}", partial(check_labels, f"evaluation.{group}", parts))
        for label, part in parts.items():
            where = f"evaluation.{group}.{label}"
            before = len(problems)
            attempt(where, partial(_check_networks, where, part))
            if len(problems) > before:
                continue
            if group == "attacks":
                attempt(where, partial(check_attack, where, part, evaluation))
            elif group == "defenses":
                attempt(where, partial(_unnamed, build_defense.build, "defense", label, part))
            else:
                attempt(where, partial(_unnamed, certify_stage.build, "certifier", label, part))
    problems += _numbers(evaluation)
    attempt("evaluation.paper", partial(check_paper, experiment))
    if not problems:  # a large data set takes a while
        attempt("evaluation", lambda: remarks.extend(_check_data(experiment, later)))
    if problems:
        several = f"{len(problems)} faults in the evaluation:\n  " if len(problems) > 1 else ""
        raise ValueError(several + "\n  ".join(problems))
    return remarks


def check_attack(where: str, chosen: Attack, evaluation: Evaluation) -> None:
    """Build one attack at each of its strengths.

    Args:
        where: full name of the attack, for messages.
        chosen: the attack.
        evaluation: the evaluation, for the images under attack.

    Raises:
        ValueError: the name or an option is unknown; a strength is out of range or given twice; images to fit on are
            missing, not needed, or under attack.
    """
    known = [*attacks.ATTACKS, *attacks.FITTED]
    if chosen.name not in known:
        raise ValueError(f"{where}.name={chosen.name!r} is not an attack{suggestion(chosen.name, known)}")
    fitted, name = chosen.name in attacks.FITTED, attacks.strength_option(chosen.name)
    if chosen.epsilons == ():
        raise ValueError(f"{where}.epsilons is empty; give strengths, such as 2 / 255, or None")
    for epsilon in chosen.epsilons or ():
        _check_strength(where, chosen, name, epsilon)
    single = [float(jnp.float32(epsilon)) for epsilon in chosen.epsilons or ()]  # as attacks compute
    if twice := [e for i, e in enumerate(chosen.epsilons or ()) if single[i] in single[:i]]:
        raise ValueError(f"{where}.epsilons has {twice[0]!r} twice, or two values that are equal in float32")
    if chosen.epsilons and name in chosen.options:
        raise ValueError(f"{where} sets {name} in options and in epsilons; remove one")
    if fitted != (chosen.fit_on is not None):
        mend = "needs fit_on, the images to fit it on" if fitted else "is not fitted on images; remove fit_on"
        raise ValueError(f"{where}: {chosen.name} {mend}")
    if fitted:
        _check_fitted(where, chosen, evaluation)
        return
    options = chosen.options | load_networks(chosen.networks)
    allowed = [f.name for f in fields(attacks.ATTACKS[chosen.name])]
    for option in options:
        if option not in allowed:
            raise ValueError(f"{where}.options: {chosen.name} has no option {option!r}{suggestion(option, allowed)}")
    if chosen.aligned or chosen.epsilons:
        if name not in allowed:
            raise ValueError(f"{where}: {chosen.name} has no option {name}; write epsilons=None")
        options.pop(name, None)
    for strength in _strengths(chosen):
        attacks.make(chosen.name, **(options if strength is None else {**options, name: strength}))


def _check_strength(where: str, chosen: Attack, name: str, value: Any) -> None:
    """Check a strength for a wrong unit or type; the attack checks its range."""
    if isinstance(value, bool | str) or not value >= 0 or value == float("inf"):
        raise ValueError(f"{where}: {name}={value!r} is not a strength; write a number >= 0, such as 2 / 255")
    if name == "epsilon" and value > 1 and chosen.options.get("norm", "linf") == "linf":
        raise ValueError(
            f"{where}: epsilon={value:g} is larger than the range of a pixel, which is 1; write {value:g} / 255"
        )


def _strengths(chosen: Attack) -> Iterator[float | None]:
    if chosen.aligned is None:
        yield from chosen.epsilons or (None,)
    elif chosen.aligned.ladder is not None:
        yield from chosen.aligned.ladder
    elif chosen.aligned.measure == "budget" or attacks.strength_option(chosen.name) == "epsilon":
        yield from LEVELS["linf"].values()
    # otherwise the ladder starts at the attack's strength, which the options may set


def _check_fitted(where: str, chosen: Attack, evaluation: Evaluation) -> None:
    """Call the fitting function: it checks its options before it computes the first score."""
    fit = attacks.FITTED[chosen.name].fit
    parameters = inspect.signature(fit).parameters.values()
    allowed = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in ("epsilon", "progress")]
    networks = load_networks(chosen.networks, training=True)
    for option in chosen.options | networks:
        if option not in allowed:
            raise ValueError(f"{where}.options: {chosen.name} has no option {option!r}{suggestion(option, allowed)}")
    needed = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty and p.name != "epsilon"]
    if missing := set(needed) - set(chosen.options | networks):
        raise ValueError(f"{where}: {chosen.name} needs {', '.join(sorted(missing))}, in networks or options")
    if chosen.aligned is None and not chosen.epsilons:
        raise ValueError(f"{where}: {chosen.name} needs epsilons, such as (2 / 255, 4 / 255)")
    assert chosen.fit_on is not None  # `check_attack` has looked
    same = replace(chosen.fit_on, limit=None) == replace(evaluation.data, limit=None)
    if same and chosen.fit_split == evaluation.attacked_split:
        raise ValueError(
            f"{where} is fitted on the attacked split, {chosen.fit_split!r}; choose another fit_split or fit_on"
        )
    side = evaluation.size or chosen.options.get("size") or (256, 256)  # the benchmark's size; nothing is run
    for epsilon in _strengths(chosen):
        try:
            images = jnp.full((1, *side, 3), 0.5)
            fit(_unasked, images, jax.random.key(0), epsilon=epsilon, **chosen.options, **networks)
        except _AskedError:
            pass


class _AskedError(Exception):
    """A score was needed: all options are accepted."""


def _unasked(images: Any) -> Any:
    raise _AskedError


def _check_networks(where: str, part: Attack | Defense | Certifier) -> None:
    training = isinstance(part, Attack) and part.name in attacks.FITTED
    for option, network in part.networks.items():
        if network.name not in NETWORKS:
            raise ValueError(
                f"{where}.networks.{option}.name={network.name!r} is not a network{suggestion(network.name, NETWORKS)}"
            )
        try:
            load_networks({option: network}, training=training)
        except FileNotFoundError as error:
            raise ValueError(f"{where}.networks.{option}: {error.filename or error} does not exist") from error
        except (ValueError, TypeError, OSError) as error:
            raise ValueError(f"{where}.networks.{option}: {str(error).removeprefix(f'networks.{option}.')}") from error


def _unnamed(build: Callable[[str, Any], Any], kind: str, label: str, part: Any) -> None:
    """Build a part; remove its short name from the message, since the caller adds the full name."""
    try:
        build(label, part)
    except ValueError as error:
        raise ValueError(str(error).removeprefix(f"{kind} {label!r}: ")) from error


def _numbers(evaluation: Evaluation) -> Iterator[str]:
    at_least: dict[str, tuple[Any, float]] = {
        "batch_size": (evaluation.batch_size, 1),
        "masking": (evaluation.masking, 0),
        "examples": (evaluation.examples, 0),
        "adaptive.draws": (evaluation.adaptive.draws, 1),
    }
    at_least |= {f"size[{i}]": (side, 1) for i, side in enumerate(evaluation.size or ())}
    for label, attack in evaluation.attacks.items():
        if attack.aligned:
            at_least[f"attacks.{label}.aligned.images"] = attack.aligned.images, 1
            if not 0 < attack.aligned.tolerance < 1:
                yield f"evaluation.attacks.{label}.aligned.tolerance={attack.aligned.tolerance}; expected one in (0, 1)"
    if ranks := evaluation.ranked:
        at_least |= {"ranks.images": (ranks.images, 2), "ranks.queries": (ranks.queries, 0)}
        if ranks.queries == 1:
            yield "evaluation.ranks.queries=1; expected at least 2, or 0 for no attack without gradients"
        radii = ranks.epsilons
        if not radii:
            yield "evaluation.ranks.epsilons is empty; give strengths, such as 2 / 255, or write ranks=None"
        yield from (
            f"evaluation.ranks.epsilons has {e!r} twice" for e in sorted({e for e in radii if radii.count(e) > 1})
        )
        for epsilon in radii:
            if not 0 < epsilon <= 1:
                yield f"evaluation.ranks.epsilons: {epsilon!r} is outside (0, 1]; write for example 2 / 255"
        if ranks.query_epsilons not in (None, Ranks().query_epsilons):  # a list of strengths may lack that
            for epsilon in sorted(set(ranks.query_epsilons or ()) - set(radii)):
                yield f"evaluation.ranks.query_epsilons: {epsilon!r} is not among ranks.epsilons; add it there"
    for label, certifier in evaluation.certifiers.items():
        at_least[f"certifiers.{label}.images"] = certifier.images, 1
    for name, (value, low) in at_least.items():
        if value is not None and not value >= low:
            yield f"evaluation.{name}={value}; expected at least {low}"
    if not evaluation.psnr_cap > 0:
        yield f"evaluation.psnr_cap={evaluation.psnr_cap}; expected a positive number of dB, or inf"


def _check_data(experiment: Experiment, later: bool) -> list[str]:
    evaluation, remarks = experiment.evaluation, []

    def split_of(where: str, chosen: Any, part: str) -> Any:
        try:
            return load_split(chosen, part)
        except (ValueError, TypeError) as error:
            raise ValueError(f"evaluation.{where}: {error}") from error

    check_choice("evaluation.score_range", evaluation.score_range, ("mos", "baseline", "model"))
    labelled = split_of(f"split={evaluation.split!r}", experiment.data, evaluation.split)
    if labelled.mos is None:
        raise ValueError(f"evaluation.split={evaluation.split!r} has no human scores; choose a split with scores")
    if evaluation.score_range == "mos" and labelled.mos_range is None:
        remarks.append(
            'evaluation.score_range="mos" needs mos_range, the ends of the scale, which this data set does not give; '
            "write mos_range=(LOWEST, HIGHEST) in data.options, or use --evaluation.score-range baseline"
        )
        if not later:
            raise ValueError(remarks[0])
    attacked = split_of(f"attacked_split={evaluation.attacked_split!r}", evaluation.data, evaluation.attacked_split)
    subset = evaluation.subset
    if subset and (subset.clusters < 1 or not 1 <= subset.count <= len(attacked) or subset.count % subset.clusters):
        raise ValueError(
            f"evaluation.subset.count={subset.count} must be a multiple of clusters={subset.clusters} and at most "
            f"{len(attacked)}, the number of images in {attacked.name}"
        )
    for label, attack in evaluation.attacks.items():
        if attack.fit_on:
            split_of(f"attacks.{label}.fit_split={attack.fit_split!r}", attack.fit_on, attack.fit_split)
    return remarks
