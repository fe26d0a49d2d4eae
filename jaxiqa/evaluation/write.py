"""The last stage of an evaluation: write tables, plots and the report page from the rows."""

import json
import shlex
import sys
import time
from dataclasses import asdict, replace
from typing import Any

from rich.markup import escape

from jaxiqa.config import Experiment, root_folder
from jaxiqa.core.devices import device_name
from jaxiqa.core.progress import console
from jaxiqa.core.version import package_versions, source_commit
from jaxiqa.evaluation.attack_stage import example_path
from jaxiqa.evaluation.paper_run import paper_tables
from jaxiqa.evaluation.rank_stage import RankPlan
from jaxiqa.evaluation.strengths import keys_of
from jaxiqa.reports import write_defenses, write_paper, write_report
from jaxiqa.reports.attacks.folds import Numbers
from jaxiqa.reports.attacks.order import order_tables, summarise_order
from jaxiqa.reports.attacks.summary import ends_of, summarise
from jaxiqa.reports.attacks.tables import for_terminal, notes
from jaxiqa.reports.defenses.certified import certificates, without_range
from jaxiqa.reports.defenses.certified import tidy_lines as certified_lines
from jaxiqa.reports.defenses.summary import summarise_defenses
from jaxiqa.reports.defenses.tables import tidy_lines as defense_lines
from jaxiqa.results.engine import Rows
from jaxiqa.results.examples import load
from jaxiqa.results.rows import (
    UNDEFENDED,
    CertificateRow,
    DefenseRow,
    MaskingRow,
    ModelRow,
    PredictionRow,
    RankRow,
    ResultRow,
)
from jaxiqa.results.store import Store


def write_reports(
    experiment: Experiment, labelled: Any, attacked: Any, store: Store | None = None, *, device: str | None = None
) -> Numbers:
    """Write tables, plots and report.html from the rows of this experiment's models, seeds, attacks and defenses.

    Args:
        experiment: the experiment.
        labelled, attacked: the images.
        store: the rows of its folder, if they were read before.
        device: name of the device that made the rows; this one by default.

    Returns:
        The numbers of the tables.
    """
    root, evaluation = root_folder(experiment), experiment.evaluation
    names, seeds, order = list(experiment.variants), experiment.seeds, list(evaluation.attacks)

    store = store or Store(root)

    def mine(kind: type) -> Rows:
        return store.rows(kind).among("model", names).among("seed", seeds)

    models = sorted(mine(ModelRow).all(), key=lambda row: (names.index(row.model), row.seed))
    keys = {label: set(keys_of(attack)) for label, attack in evaluation.attacks.items()}  # only present strengths
    results = mine(ResultRow).present(keys).sorted_by("attack", order)
    masking = mine(MaskingRow).only(images=evaluation.masking).all()
    ranges = {"score_range": evaluation.score_range, "mos_range": labelled.mos_range}
    summary = summarise(results, mine(PredictionRow), models, masking=masking, **ranges)
    paths = [
        example_path(root, name, label, number)
        for number in range(evaluation.examples)
        for label in order
        for name in (names[0], names[-1])
    ]
    examples = [load(path) for path in dict.fromkeys(paths) if path.exists()]
    facts = {
        "command": shlex.join(["python", *sys.argv]),
        "commit": source_commit() or "unknown",
        "versions": package_versions(),
        "seeds": ", ".join(map(str, seeds)),
        "device": device or device_name(),
        "date": time.strftime("%Y-%m-%d"),
        "labelled images": labelled.name,
        "attacked images": attacked.name,
    }
    ends = ends_of(models, results, **ranges)
    mos = None if attacked.mos is None else dict(zip(attacked.ids, attacked.mos.tolist(), strict=True))
    rows = mine(DefenseRow).present(keys)
    labels = [UNDEFENDED, *evaluation.defenses]
    chosen = rows.among("defense", labels).sorted_by("defense", labels)
    how: dict[str, Any] = {"mos": mos, "psnr_cap": evaluation.psnr_cap}
    proofs = mine(CertificateRow).among("certifier", [*evaluation.certifiers]).all()
    defenses = summarise_defenses(chosen, ends, **how)
    defended = write_defenses(
        root,
        defenses,
        summarise_defenses(rows, ends, **how),
        certificates(proofs, ends, mos),
        title=experiment.name,
        facts=facts,
    )
    left = None
    if evaluation.ranked:
        plan = RankPlan(labelled, experiment.model.input_size, evaluation.ranked)
        left = summarise_order(plan.present(mine(RankRow), names), names, ends)
    paper = paper_tables(experiment, labelled, attacked, summary, results, ends)
    write_paper(root, paper)
    page = write_report(
        root,
        summary,
        examples,
        title=experiment.name,
        facts=facts,
        config=json.dumps(asdict(experiment), indent=1, default=str),
        defended=defended,
        tidy=[*defense_lines(defenses), *certified_lines(proofs, ends, mos)],
        paper=paper,
        left=left,
    )
    console.print(for_terminal(summary))
    for line in [*notes(summary), *without_range(proofs, ends)]:
        console.print(f"[dim]{escape(line)}[/]", highlight=False)
    for table in (
        *paper,
        *(order_tables(left)[:1] if left else ()),
        *(table for section in defended for table in section.tables),
    ):
        if len(table.header) <= 10:  # others are too wide for a terminal
            console.print(table)
    console.print(f"report: {page}", markup=False, highlight=False, soft_wrap=True)
    return Numbers(replace(summary, by_image={}), left)  # these are not in memory, and keep the store open
