"""Meta-World's own evaluation of a trained policy, so that numbers are the benchmark's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmaml.config.value_types import integer
from mmaml.envs.metaworld import HORIZON, MetaWorld, package
from mmaml.envs.registry import META_WORLD, make_family
from mmaml.errors import UsageError
from mmaml.trained_policy.loading import load
from mmaml.trained_policy.policy import TrainedPolicy

GOALS = 40  # of each environment, by which Meta-World's own experiments evaluate


class Score(NamedTuple):
    """What the benchmark gives: shares of episodes with success, and the mean return of an episode."""

    success_rate: float
    mean_return: float
    success_rates: dict[str, float]


class Agent:
    """Trained policies as `metaworld.evaluation.metalearning_evaluation` asks for them, one for each environment."""

    def __init__(self, policies: Sequence[TrainedPolicy]) -> None:
        self.policies = policies

    def init(self) -> None:
        """Forget the tasks."""
        for policy in self.policies:
            policy.reset_task()

    def adapt_action(self, observations: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Actions [n, A] to learn from, drawn. observations: [n, O]."""
        return self._act(observations, deterministic=False), {}

    def step(self, timestep: Any) -> None:
        """Record what came of `adapt_action`: a `metaworld.evaluation.Timestep` of all environments."""
        for index, policy in enumerate(self.policies):
            ends = {name: bool(getattr(timestep, name)[index]) for name in ("terminated", "truncated")}
            policy.record(float(timestep.reward[index]), **ends)

    def adapt(self) -> None:
        """Adapt each policy to its task."""
        for policy in self.policies:
            policy.adapt()

    def eval_action(self, observations: np.ndarray) -> np.ndarray:
        """Actions [n, A], the means of the policies. observations: [n, O]."""
        return self._act(observations, deterministic=True)

    def reset(self, env_mask: np.ndarray) -> None:
        """Begin episodes in some environments, bool [n]; what is acted in an evaluation is not recorded."""
        for index in np.flatnonzero(env_mask):
            self.policies[int(index)].start_episode()

    def _act(self, observations: np.ndarray, deterministic: bool) -> np.ndarray:
        rows = zip(self.policies, observations, strict=True)
        return np.stack([policy.act(row, deterministic=deterministic) for policy, row in rows])


def evaluate(
    run: str | Path,
    *,
    meta_batch_size: int = 20,
    evaluation_episodes: int = 3,
    num_evals: int | None = None,
    max_episode_steps: int = HORIZON,
    seed: int = 0,
) -> Score:
    """Let `metaworld.evaluation.metalearning_evaluation` measure a run of an ML benchmark on its test tasks.

    It adapts as in training, K times from N episodes each, then measures the mean of the policy in episodes that end
    with success, in Meta-World's own environments. meta_batch_size: of these, at the same time; a multiple of the
    number of test environments that divides 40 goals of each. num_evals: how many tasks each of them gets; None: all of
    the 40 goals are used once. max_episode_steps: Meta-World's is 500. seed: what actions are drawn from.

    Raises UsageError for a run on something else, for a policy that does not adapt by `adapt` or that observes which
    environment it is in, and for other sizes.
    """
    _check_number("meta_batch_size", meta_batch_size, 1)
    _check_number("evaluation_episodes", evaluation_episodes, 1)
    _check_number("num_evals", 1 if num_evals is None else num_evals, 1)
    _check_number("seed", seed, 0)
    seeds = range(seed * meta_batch_size, (seed + 1) * meta_batch_size)
    policies = [load(run, seed=one, horizon=max_episode_steps) for one in seeds]
    config = policies[0].config
    benchmark = config.env.removeprefix(META_WORLD)
    if not (config.env.startswith(META_WORLD) and benchmark.startswith("ML")):
        raise UsageError("run", expected="one on an ML benchmark of Meta-World", got=f"one on '{config.env}'")
    if not policies[0].adapt_steps:
        remedy = "`mmaml evaluate` measures it by episode"
        raise UsageError("run", f"{config.algorithm} does not adapt as the protocol asks", remedy)
    if config.env_kwargs.get("one_hot"):
        raise UsageError(
            "run", "it observes which environment it is in, which Meta-World's test environments do not show"
        )
    family = make_family(config.env, **config.env_kwargs)
    assert isinstance(family, MetaWorld)
    share, rest = divmod(meta_batch_size, len(family.environments["test"]))
    if rest or not share or GOALS % share:
        expected = f"a multiple of {len(family.environments['test'])} that divides {GOALS} goals of each"
        raise UsageError("meta_batch_size", expected=expected, got=str(meta_batch_size))
    environments = package().make_ml_envs_test(
        benchmark.removeprefix("ML1-"),
        seed=config.env_kwargs.get("benchmark_seed", 0),
        meta_batch_size=meta_batch_size,
        total_tasks_per_cls=GOALS,
        max_episode_steps=max_episode_steps,
        reward_function_version=config.env_kwargs.get("reward_version", "v2"),
    )
    try:
        success_rate, mean_return, by_environment = package().evaluation.metalearning_evaluation(
            Agent(policies),
            environments,
            num_evals=num_evals or GOALS // share,
            adaptation_steps=policies[0].adapt_steps,
            adaptation_episodes=policies[0].rollouts_per_adaptation,
            evaluation_episodes=evaluation_episodes,
        )
    finally:
        environments.close()
    return Score(success_rate, mean_return, {name: float(rate) for name, rate in by_environment.items()})


def _check_number(name: str, value: int, least: int) -> None:
    kind = integer(least)
    if not kind.accepts(value):
        raise UsageError(name, expected=kind.expected, got=repr(value))
