"""How far each inner step of a trained run moves its policy, on held-out tasks.

python scripts/step_lengths.py data/run1 --num_adapt_steps 4
python scripts/step_lengths.py data/run1 --num_adapt_steps 4 --inner_lr 0.1 0.1 0.02

Of step k, mean over tasks: ‖θ_k − θ_{k−1}‖ of what is adapted; KL(π_{k−1} ‖ π_k) on the collection that the step was
computed from, in nats a step of the environment; and the return after it.
"""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmaml.cli.arguments import whole_number
from mmaml.cli.options import adapted, parse_run, run_parser
from mmaml.cli.script import one_line_errors
from mmaml.config.value_types import MAX_INTEGER
from mmaml.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from mmaml.algorithms.maml import MAML
    from mmaml.task_block import TaskBlock


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Print a row for each inner step. The exit code."""
    parser = run_parser("step_lengths.py", *(__doc__ or "").split("\n\n", 1))
    parser.add_argument("--num_tasks", type=whole_number, default=40, metavar="M", help="held-out tasks (default: 40)")
    arguments = parse_run(parser, argv, {"num_tasks": (1, MAX_INTEGER)})
    from mmaml.algorithms.maml import MAML
    from mmaml.evaluation.held_out import check_split, evaluate, in_a_line, restore
    from mmaml.parallel.ranks import connect
    from mmaml.worker import Worker

    config, state = restore(arguments.restore_path)
    check_split(config, arguments.split)
    config, steps = adapted(config, arguments)
    with in_a_line(), connect(parallel=False) as ranks, closing(Worker(config)) as worker:
        if not isinstance(worker.algorithm, MAML):
            raise UsageError("RUN", f'a run of algorithm "{config.algorithm}" takes no inner steps', "choose another")
        ranks.serve(worker)
        summary = evaluate(ranks, worker, state, arguments.num_tasks, steps, arguments.split)
        assert worker.block is not None
        lengths = step_lengths(worker.algorithm, worker.algorithm.spec.flatten(state["parameters"]), worker.block)
    returns = [step["mean"] for step in summary["overall"]["return"]]
    print(f"{'step':>4} {'length':>9} {'KL':>9} {'return':>9}\n   0 {'':19} {returns[0]:9.2f}")
    for k, (length, divergence) in enumerate(lengths, start=1):
        print(f"{k:4} {length:9.3f} {divergence:9.3f} {returns[k]:9.2f}")
    return 0


def step_lengths(algorithm: MAML, parameters: Tensor, block: TaskBlock) -> list[tuple[float, float]]:
    """Of every inner step: ‖θ_k − θ_{k−1}‖ of the adapted parameters, and KL(π_{k−1} ‖ π_k), means over tasks."""
    import torch

    from mmaml.updates.losses import mean_kl

    *collections, last = block.rollouts
    meta = algorithm.spec.per_task(parameters, last.tasks)
    state = algorithm.begin(meta, last.identity)
    lengths = []
    for k, data in enumerate(collections):
        before = state.params
        state, _ = algorithm.inner_step(meta, state, block.rollouts[: k + 1], create_graph=False)
        squares = [(value - before[name]).square().flatten(1).sum(1) for name, value in state.params.items()]
        divergence = mean_kl(algorithm.distribution(state, data), data)
        lengths.append((torch.stack(squares).sum(0).sqrt().mean().item(), divergence.mean().item()))
    return lengths


if __name__ == "__main__":
    sys.exit(main())
