"""Complete an experiment: what its trainings leave open is taken from the recipe of the metric."""

from dataclasses import fields, replace

from jaxiqa.config import Average, Experiment, Saved, Training, Variant, trained_variants
from jaxiqa.config.identity import chain
from jaxiqa.core.checks import check_choice
from jaxiqa.models import MODELS
from jaxiqa.models.recipe import Recipe

FROM_RECIPE = tuple(field.name for field in fields(Recipe))


def with_recipes(experiment: Experiment) -> Experiment:
    """Return the experiment with every field of its trainings set; a complete experiment is returned unchanged.

    Raises:
        ValueError: the metric is unknown.
    """
    check_choice("model.metric", experiment.model.metric, MODELS)
    variants: dict[str, Variant | Average | Saved] = dict(experiment.variants)
    for name, variant in trained_variants(experiment).items():
        recipe = MODELS[metric_of(experiment, name)].metric.recipe
        variants[name] = replace(variant, training=completed(variant.training, recipe))
    return replace(experiment, variants=variants)


def metric_of(experiment: Experiment, name: str) -> str:
    """Return the name of the metric that a variant trains: that of the experiment, or the one with a controlled tail.

    >>> from jaxiqa.config import Data, Evaluation, Model, Tail
    >>> variants = {"base": Variant(Training()), "tail": Variant(Training(), parent="base", tail=Tail("layer3"))}
    >>> data = Data("builtin")
    >>> experiment = Experiment("x", data, Model("resnet18"), variants, Evaluation(data, {}))
    >>> metric_of(experiment, "base"), metric_of(experiment, "tail")
    ('linearity', 'norm_controlled')
    """
    trained = trained_variants(experiment)
    return "norm_controlled" if any(trained[link].tail for link in chain(experiment, name)) else experiment.model.metric


def completed(training: Training, recipe: Recipe) -> Training:
    """Return ``training`` with the values of ``recipe`` for all fields that are None.

    Without crops, what describes them is left out. With another ``schedule`` than the recipe's, ``decay_every`` is not
    taken from it.

    >>> recipe = Recipe(epochs=5, batch_size=8, loss="mae", learning_rate=1e-4, crops=50, crop=(224, 224))
    >>> training = completed(Training(epochs=2), recipe)
    >>> training.epochs, training.crops, training.crop
    (2, 50, (224, 224))
    >>> completed(Training(crops=0), recipe).crop is None
    True
    """
    given = {name for name in FROM_RECIPE if getattr(training, name) is not None}
    found = {name: getattr(recipe, name) for name in FROM_RECIPE if name not in given}
    if "schedule" in given and training.schedule != recipe.schedule:
        found.pop("decay_every", None)  # it belongs to the other schedule
    if not found.get("crops", training.crops):
        found |= {"crop": None, "resize": None, "patches": 1}
    return replace(training, **found)
