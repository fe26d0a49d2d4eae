"""Evaluate models under attacks and defenses: one file per stage; every stage writes rows.

`attack_loop` is the core: a runner per attack, and `attack_split`, which attacks a split batch by batch. The stages
`clean_stage`, `attack_stage`, `defense_stage` and `certify_stage` take an `EvaluatedModel` (one trained model and its
folder) and parts of an experiment's `jaxiqa.config.Evaluation`. They read the rows that exist, divide what is missing
into units, let them be computed here or by others (`jaxiqa.core.workers`), and append their rows. They may be killed at
any time.
"""

from jaxiqa.evaluation.attack_loop import Batch, attack_runner, attack_split, score_split, shard_batch

__all__ = ["Batch", "attack_runner", "attack_split", "score_split", "shard_batch"]
