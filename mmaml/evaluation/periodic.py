"""Columns of the log: returns on held-out tasks, every so many iterations."""

from __future__ import annotations

from torch import Tensor

from mmaml.errors import NotFinite
from mmaml.meta_batch import Master
from mmaml.reporting.columns import returns_row


def evaluation_row(master: Master, parameters: Tensor, iteration: int) -> dict[str, float]:
    """Returns on held-out tasks, the same tasks each time; NaN in iterations without an evaluation, or a bad one."""
    config = master.config
    if config.eval_interval == 0:
        return {}
    names = [f"Eval-Step_{step}-AverageReturn" for step in range(config.stages)]
    unknown = dict.fromkeys(names, float("nan"))
    if (iteration + 1) % config.eval_interval and iteration + 1 < config.n_itr:
        return unknown
    tasks = master.sample_tasks(config.eval_num_tasks, 0, purpose="test")
    try:
        row = returns_row(master.collect(parameters, tasks, iteration, purpose="test"), "Eval-")
    except NotFinite as finding:
        master.warn(f"warning: iteration {iteration}: no evaluation, since on held-out tasks, {finding}")
        return unknown
    return {name: row[name] for name in names}
