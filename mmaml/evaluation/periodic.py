"""What an iteration and a run report: return columns, evaluation on held-out tasks, task embeddings."""

from __future__ import annotations

from torch import Tensor

from mmaml.config.keys import Config
from mmaml.errors import NotFinite
from mmaml.meta_batch import collect
from mmaml.parallel.ranks import Ranks
from mmaml.reporting.columns import returns_row
from mmaml.worker import Worker


def evaluation_row(
    config: Config, ranks: Ranks, worker: Worker, parameters: Tensor, iteration: int
) -> dict[str, float]:
    """Returns on held-out tasks, the same tasks each time; NaN in iterations without an evaluation, or a bad one."""
    if config.eval_interval == 0:
        return {}
    names = [f"Eval-Step_{step}-AverageReturn" for step in range(worker.algorithm.collections)]
    unknown = dict.fromkeys(names, float("nan"))
    if (iteration + 1) % config.eval_interval and iteration + 1 < config.n_itr:
        return unknown
    tasks = worker.sample_tasks(config.eval_num_tasks, 0, purpose="test")
    try:
        row = returns_row(collect(ranks, parameters, tasks, iteration, purpose="test"), "Eval-")
    except NotFinite as finding:
        ranks.roster.report(f"warning: iteration {iteration}: no evaluation, since on held-out tasks, {finding}")
        return unknown
    return {name: row[name] for name in names}
