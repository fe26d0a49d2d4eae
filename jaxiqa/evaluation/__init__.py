"""The grid of models, attacks, strengths and defenses: one file per stage, rows out.

`attack_loop` is the core: a runner per attack, and `attack_split`, which attacks a split batch by batch. The stages
`clean_stage`, `attack_stage`, `defense_stage` and `certify_stage` each take an `EvaluatedModel` (one trained model and
its folder) and parts of an
experiment's `jaxiqa.config.Evaluation`, look up which rows there are, and append those that are missing. They can be
killed at any moment.
"""

from jaxiqa.evaluation.attack_loop import Batch, attack_runner, attack_split, score_split, shard_batch

__all__ = ["Batch", "attack_runner", "attack_split", "score_split", "shard_batch"]
