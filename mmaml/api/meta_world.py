"""Meta-World's own evaluation of a trained policy, so that numbers are the benchmark's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from mmaml.config.keys import Config
from mmaml.config.value_types import integer
from mmaml.envs.metaworld import ACTIONS, HORIZON, OBSERVATIONS, MetaWorld, package
from mmaml.envs.registry import META_WORLD, make_family
from mmaml.errors import UsageError
from mmaml.trained_policy.loading import load
from mmaml.trained_policy.policy import TrainedPolicy

GOALS = 40  # of each environment, by which Meta-World's own experiments evaluate
LAST_REWARD = OBSERVATIONS + ACTIONS  # index in an observation that ends with the last action, reward and end


class Score(NamedTuple):
    """What the benchmark gives: shares of episodes with success, and the mean return of an episode."""

    success_rate: float
    mean_return: float
    success_rates: dict[str, float]


class Agent(Protocol):
    """What `metaworld.evaluation.metalearning_evaluation` asks, of all of n environments at once."""

    def init(self) -> None:
        """Forget the tasks."""

    def adapt_action(self, observations: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Actions [n, A] to learn from, drawn. observations: [n, O]."""

    def step(self, timestep: Any) -> None:
        """Record what came of `adapt_action`: a `metaworld.evaluation.Timestep`."""

    def adapt(self) -> None:
        """Adapt to the tasks."""

    def eval_action(self, observations: np.ndarray) -> np.ndarray:
        """Actions [n, A], the means of the policy. observations: [n, O]."""

    def reset(self, env_mask: np.ndarray) -> None:
        """Begin episodes in some environments, bool [n]."""


class InSteps:
    """An `Agent` that adapts by inner steps: a policy for each environment. Evaluations are not recorded."""

    def __init__(self, policies: Sequence[TrainedPolicy]) -> None:
        self.policies = policies

    def init(self) -> None:
        for policy in self.policies:
            policy.reset_task()

    def adapt_action(self, observations: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        return self._act(observations, deterministic=False), {}

    def step(self, timestep: Any) -> None:
        for index, policy in enumerate(self.policies):
            ends = {name: bool(getattr(timestep, name)[index]) for name in ("terminated", "truncated")}
            policy.record(float(timestep.reward[index]), **ends)

    def adapt(self) -> None:
        for policy in self.policies:
            policy.adapt()

    def eval_action(self, observations: np.ndarray) -> np.ndarray:
        return self._act(observations, deterministic=True)

    def reset(self, env_mask: np.ndarray) -> None:
        for index in np.flatnonzero(env_mask):
            self.policies[int(index)].start_episode()

    def _act(self, observations: np.ndarray, deterministic: bool) -> np.ndarray:
        rows = zip(self.policies, observations, strict=True)
        return np.stack([policy.act(row, deterministic=deterministic) for policy, row in rows])


class ByMemory:
    """An `Agent` that adapts by remembering: a policy with a lane for each environment.

    Observations end with the last action, reward and end, by Meta-World's `RNNBasedMetaRLWrapper`. Every episode of an
    evaluation begins with what was remembered when the adaptation ended: the protocol does not show the last reward of
    the episode before.
    """

    def __init__(self, policy: TrainedPolicy) -> None:
        self.policy = policy

    def init(self) -> None:
        self.policy.reset_task()
        self._acted = False

    def adapt_action(self, observations: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        return self.policy.act(observations[:, :OBSERVATIONS]), {}

    def step(self, timestep: Any) -> None:
        self.policy.record(timestep.reward, terminated=timestep.terminated, truncated=timestep.truncated)

    def adapt(self) -> None:
        self._adapted = self.policy.memory()
        self._begins = np.ones(len(self._adapted), bool)

    def eval_action(self, observations: np.ndarray) -> np.ndarray:
        if self._acted:
            self.policy.record(observations[:, LAST_REWARD])
        self.policy.recall(self._adapted, np.flatnonzero(self._begins).tolist())
        self._begins[:], self._acted = False, True
        return self.policy.act(observations[:, :OBSERVATIONS], deterministic=True)

    def reset(self, env_mask: np.ndarray) -> None:
        self._begins |= env_mask


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

    It adapts as in training, K times from N episodes each, or by remembering the E episodes of a trial, then measures
    the mean of the policy in episodes that end with success, in Meta-World's own environments. meta_batch_size: of
    these, at the same time; a multiple of the number of test environments that divides 40 goals of each. num_evals: how
    many tasks each of them gets; None: all of the 40 goals are used once. max_episode_steps: Meta-World's is 500. seed:
    what actions are drawn from.

    Raises UsageError for a run on something else, for a policy that does not adapt or that observes which environment
    it is in, and for other sizes.
    """
    _check_number("meta_batch_size", meta_batch_size, 1)
    _check_number("evaluation_episodes", evaluation_episodes, 1)
    _check_number("num_evals", 1 if num_evals is None else num_evals, 1)
    _check_number("max_episode_steps", max_episode_steps, 1)
    _check_number("seed", seed, 0)
    seeds = range(seed * meta_batch_size, (seed + 1) * meta_batch_size)
    policy = _policy(run, seeds[0], max_episode_steps)
    config = policy.config
    copies = _copies_of_each(config, meta_batch_size)
    environments = package().make_ml_envs_test(
        _benchmark(config).removeprefix("ML1-"),
        seed=config.env_kwargs.get("benchmark_seed", 0),
        meta_batch_size=meta_batch_size,
        total_tasks_per_cls=GOALS,
        max_episode_steps=max_episode_steps,
        reward_function_version=config.env_kwargs.get("reward_version", "v2"),
        recurrent_info_in_obs=policy.remembers,
        normalize_reward_in_recurrent_info=False,
    )
    agent: Agent
    if policy.remembers:
        agent, steps, episodes = ByMemory(policy), 1, policy.episodes_per_trial
    else:
        others = [load(run, seed=one, horizon=max_episode_steps) for one in seeds[1:]]
        agent, steps, episodes = InSteps([policy, *others]), policy.adapt_steps, policy.rollouts_per_adaptation
    try:
        success_rate, mean_return, by_environment = package().evaluation.metalearning_evaluation(
            agent,
            environments,
            num_evals=num_evals or GOALS // copies,
            adaptation_steps=steps,
            adaptation_episodes=episodes,
            evaluation_episodes=evaluation_episodes,
        )
    finally:
        environments.close()
    return Score(success_rate, mean_return, {name: float(rate) for name, rate in by_environment.items()})


def _policy(run: str | Path, seed: int, horizon: int) -> TrainedPolicy:
    """The policy of a run that Meta-World's evaluation can measure. Raises UsageError for any other."""
    try:
        policy = load(run, seed=seed, horizon=horizon)
    except UsageError as error:
        raise (error.renamed("run") if error.argument == "restore_path" else error) from error
    config = policy.config
    if not (config.env.startswith(META_WORLD) and _benchmark(config).startswith("ML")):
        raise UsageError("run", expected="one on an ML benchmark of Meta-World", got=f"one on '{config.env}'")
    if not config.declaration.adapts:
        raise UsageError("run", f"{config.algorithm} does not adapt to a task", "`mmaml evaluate` measures it")
    if config.env_kwargs.get("one_hot"):
        raise UsageError(
            "run", "it observes which environment it is in, which Meta-World's test environments do not show"
        )
    return policy


def _benchmark(config: Config) -> str:
    """The benchmark's name, such as "ML10" or "ML1-reach-v3"."""
    return config.env.removeprefix(META_WORLD)


def _copies_of_each(config: Config, meta_batch_size: int) -> int:
    """How many copies of each test environment play at the same time.

    Raises UsageError unless that is a whole number, and one that divides `GOALS`.
    """
    family = make_family(config.env, **config.env_kwargs)
    assert isinstance(family, MetaWorld)
    environments = len(family.environments["test"])
    copies, rest = divmod(meta_batch_size, environments)
    if rest or not copies or GOALS % copies:
        sizes = ", ".join(str(environments * number) for number in range(1, GOALS + 1) if GOALS % number == 0)
        expected = f"one of {sizes}, so that each test environment plays its {GOALS} goals equally often"
        raise UsageError("meta_batch_size", expected=expected, got=str(meta_batch_size))
    return copies


def _check_number(name: str, value: int, least: int) -> None:
    kind = integer(least)
    if not kind.accepts(value):
        raise UsageError(name, expected=kind.expected, got=repr(value))
