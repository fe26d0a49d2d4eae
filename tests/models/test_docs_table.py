"""The tables of docs/models.md match the records of the published metrics."""

from pathlib import Path

import jax
import pytest
from flax import nnx
from quick import every

from jaxiqa.models import MODELS

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


@pytest.mark.parametrize("name", every(2, MODELS))
def test_the_rows_of_a_metric_match_its_record(name):
    published = MODELS[name]
    model = nnx.eval_shape(lambda: published.build(rngs=nnx.Rngs(0)))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    facts = (published.title, published.paper, published.protocol, published.results, published.licence)
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith(f"| `{name}` |")]
    cells = "\n".join(rows)
    missing = [fact for fact in (*facts, f"{parameters:,}") if fact not in cells]
    assert not missing, f"in docs/models.md, the rows that begin with | `{name}` | lack {missing}: write that there"
