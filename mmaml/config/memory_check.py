"""How much memory a run takes at the least, so that one that cannot fit is refused before it starts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mmaml.config.keys import Config
from mmaml.errors import ConfigError
from mmaml.sampling.chunks import tasks_held

if TYPE_CHECKING:
    from mmaml.envs.spec import EnvSpec

CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
ROLLOUT_KEYS = (
    "meta_batch_size",
    "rollouts_per_meta_task",
    "max_path_length",
    "episodes_per_trial",
    "num_inner_grad_steps",
)
GIB = 1 << 30
# Bytes of a task as an object, fewer than any family has; numbers of a step beside its observation and action.
TASK_BYTES = 300
STEP_NUMBERS = 8


class Need(NamedTuple):
    """Bytes that something takes at the least, on all hosts together. what: in words. keys: what to lower.

    otherwise: what can be done instead.
    """

    bytes: int
    what: str
    keys: Sequence[str]
    otherwise: str = ""


def check(needs: Iterable[Need]) -> None:
    """Raise ConfigError for the first need that the memory of this run's hosts cannot hold."""
    there = available()
    for need in needs:
        if need.bytes > there:
            raise ConfigError(
                ", ".join(need.keys),
                f"needs at least {need.bytes / GIB:.3g} GiB ({need.what}), but {there / GIB:.3g} GiB are available",
                f"lower {'one of them' if need.keys[1:] else 'it'}{need.otherwise}",
            )


def available() -> int:
    """Bytes of memory: of this host, or its cgroup, times the hosts of the run."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in CGROUP_LIMITS:
        try:
            text = path.read_text().strip()
        except OSError:
            continue  # not this kind of cgroup
        if text.isdecimal():  # not "max"
            memory = min(memory, int(text))
    return memory * hosts()


def hosts() -> int:
    """How many hosts Open MPI or Slurm says that the run has; 1 where neither does."""
    ranks, local = _announced("OMPI_COMM_WORLD_SIZE"), _announced("OMPI_COMM_WORLD_LOCAL_SIZE")
    return max(1, -(-ranks // max(local, 1)) if local else 1, _announced("SLURM_JOB_NUM_NODES"))


def _announced(variable: str) -> int:
    text = os.environ.get(variable, "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0


def training(config: Config, spec: EnvSpec) -> list[Need]:
    """What a run holds at a time. spec: of its task family, which the configuration knows already."""
    found = [rollouts(config, config.meta_batch_size, config.stages, spec, ROLLOUT_KEYS)]
    if config.eval_interval:
        keys = ("eval_num_tasks", *ROLLOUT_KEYS[1:])
        found.append(rollouts(config, config.eval_num_tasks, config.stages, spec, keys))
    if config.te_save_path is not None and config.declaration.embeds:
        stages = config.declaration.embedding_stages(config)
        found.append(rollouts(config, config.num_embeddings, stages, spec, ("num_embeddings", *ROLLOUT_KEYS[1:4])))
    if config.num_train_tasks is not None:
        count = config.num_train_tasks
        found.append(Need(count * TASK_BYTES, f"{_short(count)} training tasks", ("num_train_tasks",)))
    return [
        *found,
        *_baseline(config, spec),
        _weights(config, spec),
        *_trust_region(config, spec),
        *_of_algorithm(config),
    ]


def rollouts(config: Config, tasks: int, stages: int, spec: EnvSpec, keys: Sequence[str]) -> Need:
    """Some tasks and their rollouts in all stages: collections, or episodes of a trial. keys: what sets how many."""
    counts = (tasks, config.rollouts_per_meta_task, config.max_path_length, stages)
    words = ["tasks", "rollouts each", "time steps"]
    if stages > 1:
        words.append("episodes" if config.declaration.credit == "trial" else "collections")
    numbers = STEP_NUMBERS + spec.observation_size + 2 * spec.action_size  # an action, and what distributed it
    size = tasks * TASK_BYTES + 4 * numbers * counts[0] * counts[1] * counts[2] * counts[3]
    what = " × ".join(f"{_short(n)} {word}" for n, word in zip(counts, words, strict=False))
    return Need(size, what, _that_count(config, keys))


def _that_count(config: Config, keys: Iterable[str]) -> list[str]:
    """Those of the keys that have an effect under the algorithm."""
    return [key for key in keys if not config.declaration.is_idle(key)]


def _baseline(config: Config, spec: EnvSpec) -> list[Need]:
    """The fit of a linear baseline (`mmaml.sampling.advantages`), which every rank makes of one task at a time.

    The features of all steps, those of the steps that are fitted, and the system of equations, twice; in float64.
    """
    from mmaml.sampling.baseline_features import feature_count  # here: it loads NumPy, which --help does without

    features = feature_count(config.baseline, spec.observation_size)
    if config.declaration.is_idle("baseline") or not features:
        return []
    steps = config.rollouts_per_meta_task * config.lane_length
    ranks = _ranks(config)
    size = 8 * ranks * (2 * steps * features + 2 * min(steps, features) ** 2)
    what = f"{config.baseline} of {_short(steps)} steps × {features} features, on {ranks} rank{'s' * (ranks > 1)}"
    return [Need(size, what, ROLLOUT_KEYS[1:4], ', or take another "baseline"')]


def _ranks(config: Config) -> int:
    return min(max(_announced("OMPI_COMM_WORLD_SIZE"), 1), config.meta_batch_size)


def _trust_region(config: Config, spec: EnvSpec) -> list[Need]:
    """What is held for the products of an update with the Fisher matrix (`Algorithm.prepared`), beside rollouts.

    Of each step, the policy's activations, their cotangents at each inner step, and what belongs to its output. Where
    a GPU may compute them, they lie in its memory.
    """
    on_master = config.meta_gradient == "master"
    if config.chosen_update != "trpo" or (on_master and config.device != "cpu"):
        return []
    ranks, steps = 1 if on_master else _ranks(config), config.rollouts_per_meta_task * config.lane_length
    tasks, larger = divmod(config.meta_batch_size, ranks)
    held = steps * (larger * tasks_held(tasks + 1, steps) + (ranks - larger) * tasks_held(tasks, steps))
    inner = config.num_inner_grad_steps
    numbers = (2 * inner + 1) * sum(config.hidden_sizes) + 2 * (inner + 1) * spec.action_size
    what = f"{numbers} numbers of each of {_short(held)} steps, for the products of the trust region"
    return [Need(4 * held * numbers, what, ["hidden_sizes", *ROLLOUT_KEYS], ', or take another "meta_update"')]


def _weights(config: Config, spec: EnvSpec) -> Need:
    """Parameters, their gradient and Adam's two moments."""
    more = config.declaration.weights
    sizes = () if config.declaration.is_idle("hidden_sizes") else (spec.observation_size, *config.hidden_sizes)
    count = sum(before * after for before, after in pairwise(sizes))
    count += sum(weights(config) for weights in more.values())
    keys = _that_count(config, ["hidden_sizes", *more])
    return Need(4 * 4 * count, f"{_short(count)} weights with gradients and moments", keys)


def _of_algorithm(config: Config) -> list[Need]:
    """What the algorithm keeps beside its parameters, such as a buffer, and what it computes with at a time."""
    counts = [([name], "keeps", count(config)) for name, count in config.declaration.kept.items()]
    counts += [([*keys], "computes with", count(config)) for keys, count in config.declaration.computed.items()]
    algorithm = f'algorithm "{config.algorithm}"'
    return [Need(4 * n, f"{_short(n)} numbers that {algorithm} {does}", keys) for keys, does, n in counts]


def _short(count: int) -> str:
    return str(count) if count < 10**9 else f"{count:.3g}"
