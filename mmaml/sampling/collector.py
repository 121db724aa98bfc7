"""Roll out a block of tasks in lock-step: one policy call and one environment update a time step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmaml.envs import block_answers
from mmaml.envs.answers import Refused, SuccessReports
from mmaml.envs.base import StepResult, Task, TaskVectorEnv
from mmaml.envs.spaces import conversion
from mmaml.fault_points import reached
from mmaml.policies.distributions import Distribution
from mmaml.sampling import finite
from mmaml.sampling.acting import Actor, Step
from mmaml.sampling.environment_failures import EnvironmentFailed, FromEnvironment
from mmaml.sampling.normalisation import ObservedMoments, Scaling
from mmaml.sampling.rollouts import Rollouts


@dataclass(frozen=True)
class Lanes:
    """What a lane holds: E `episodes` of at most H steps, the `horizon`, one after another; T = E·H steps.

    padded: the lane ends with the last of its episodes, and what follows is padding; else it is filled with more.
    """

    horizon: int
    episodes: int = 1
    padded: bool = False

    @property
    def length(self) -> int:
        """T."""
        return self.horizon * self.episodes


@torch.no_grad()
def rollout(
    env: TaskVectorEnv,
    actor: Actor,
    layout: Lanes,
    noise: Tensor,
    seeds: Sequence[int],
    normalization_scale: float | None,
    episode_noise: Tensor | None = None,
    scaling: Scaling | None = None,
    observed: ObservedMoments | None = None,
) -> Rollouts:
    """N lanes of T steps of every task that `env` holds.

    actor: the policy of all tasks at once. noise [M, T, N, A]: the randomness of the actions, of which
    task m reads noise[m] alone. seeds: one a task, for resets and whatever else the environment draws.
    episode_noise [M, T, N, L]: its entry t is that of an episode which starts at t; none when None.
    scaling: of the observations that the policy sees; as they are when None. observed: takes the moments of those that
    are not normalised yet.
    What follows a truncated step is kept (`Rollouts.followed`), unless the family declares a finite horizon.
    What the environment is given, and what it returns, it may go on using and change: neither is used here.
    Raises EnvironmentFailed for what the environment raises, and where it returns other arrays than it should, or
    success at some steps only.
    """
    if episode_noise is None:
        episode_noise = noise.new_empty(*noise.shape[:3], 0)
    tasks, lanes = env.num_tasks, env.rollouts_per_task
    environment, record = _Environment(env), _Record(env, layout)
    converted = conversion(env.single_action_space, normalization_scale)

    def seen(observation: np.ndarray) -> Tensor:
        values = torch.from_numpy(observation)
        return values.float() if scaling is None else scaling.normalised(values)

    carried: Any = None
    action, own_noise = torch.zeros(tasks, lanes, noise.shape[-1]), episode_noise[:, 0]
    observation = environment.reset(seed=list(seeds))
    begun = torch.zeros(tasks, lanes, dtype=torch.long)  # episodes of the lane
    due = np.full(env.num_envs, layout.horizon)  # after how many steps of the lane the horizon ends its episode
    soonest = layout.horizon  # of all lanes
    for t, noise_of_step in enumerate(noise.unbind(1)):
        step = record.begin(t, seen(observation), action, own_noise)
        if observed is not None:
            begun += step.episode_start
            real = torch.full_like(step.episode_start, True) if not layout.padded else begun <= layout.episodes
            observed.add(observation.reshape(tasks, lanes, -1), real.numpy())
        distribution, carried = actor(step, carried)
        action = distribution.sample(noise_of_step)
        reached("time step")
        try:
            answer = environment.step(converted(action.flatten(0, 1).numpy()))
        except EnvironmentFailed as error:
            error.given = finite.finding_of_step(step.observation, distribution, action, t)
            raise
        observation, _, terminated, truncated, _ = answer
        if t + 1 == soonest:
            truncated |= (due == t + 1) & ~terminated
        ended = record.end(t, action, distribution, answer)
        if not env.finite_horizon:
            record.follow(t, np.flatnonzero(truncated), seen(observation[truncated]))
        if np.count_nonzero(ended) and t < layout.length - 1:
            observation = environment.reset(options={"reset_mask": ended.copy()})
            due[ended] = t + 1 + layout.horizon
            soonest = due.min()
            if own_noise.shape[-1]:
                starts = torch.from_numpy(ended).view(tasks, lanes, 1)
                own_noise = torch.where(starts, episode_noise[:, t + 1], own_noise)
    return record.finish(seen(observation), env.tasks)


class _Environment:
    """An environment as sampling calls it: what it returns is examined and copied."""

    def __init__(self, env: TaskVectorEnv) -> None:
        self._env, self._calling = env, FromEnvironment(env)
        self._observations: tuple[int, ...] = (env.num_envs, *env.single_observation_space.shape)  # type: ignore[misc]
        self._successes = SuccessReports()

    def reset(self, **arguments: Any) -> np.ndarray:
        """The observations of `env.reset`."""
        with self._calling:
            output = self._env.reset(**arguments)
            try:
                return block_answers.of_reset(output, self._observations)
            except Refused as refused:
                raise refused.in_method(f"{type(self._env).__name__}.reset") from None

    def step(self, actions: np.ndarray) -> StepResult:
        """What training reads of `env.step`."""
        with self._calling:
            output = self._env.step(actions)
            try:
                result = block_answers.of_step(output, self._observations)
                self._successes.note("infos['success']", "success" in result[4])
                return result
            except Refused as refused:
                raise refused.in_method(f"{type(self._env).__name__}.step") from None


class _Record:
    """Steps as they come, time first; turned into dense [M, N, T, …] arrays at the end."""

    def __init__(self, env: TaskVectorEnv, layout: Lanes) -> None:
        tasks, lanes, length = env.num_tasks, env.rollouts_per_task, layout.length
        self.shape, self.layout = (tasks, lanes, length), layout
        self.observations = torch.empty(length, tasks, lanes, *env.single_observation_space.shape)  # type: ignore[misc]
        # Before each step, and after the last.
        self.rewards = torch.zeros(length + 1, tasks, lanes)
        self.starts = torch.ones(length + 1, tasks, lanes, dtype=torch.bool)
        self.terminated, self.truncated = torch.empty(2, length, tasks, lanes, dtype=torch.bool).unbind(0)
        self._before = list(zip(self.observations, self.rewards, self.starts, strict=False))
        self._after = [
            column.view(-1, tasks * lanes).numpy()
            for column in (self.rewards[1:], self.terminated, self.truncated, self.starts[1:])
        ]
        self.actions: list[Tensor] = []
        self.episode_noise: list[Tensor] = []
        self.distributions: list[Distribution] = []
        self.success: list[np.ndarray] = []
        self.blow_ups: list[np.ndarray] = []
        self.followed: list[tuple[Tensor, Tensor, Tensor]] = []

    def begin(self, t: int, observations: Tensor, previous_action: Tensor, episode_noise: Tensor) -> Step:
        """What is seen before a step. observations: [M·N, O]."""
        observation, reward, start = self._before[t]
        observation.copy_(observations.view(observation.shape))
        self.episode_noise.append(episode_noise)
        return Step(observation, previous_action, reward, start, episode_noise)

    def end(self, t: int, action: Tensor, distribution: Distribution, answer: StepResult) -> np.ndarray:
        """Record what came of a step; which lanes' episodes have ended, bool [M·N]."""
        _, reward, terminated, truncated, infos = answer
        rewards, terminations, truncations, starts = self._after
        rewards[t], terminations[t], truncations[t] = reward, terminated, truncated
        self.actions.append(action)
        self.distributions.append(distribution)
        if "success" in infos:
            self.success.append(infos["success"])
        if "blow_up" in infos:
            self.blow_ups.append(infos["blow_up"])
        return np.logical_or(terminated, truncated, out=starts[t])

    def follow(self, step: int, lanes: np.ndarray, observations: Tensor) -> None:
        """What followed a step, [n, O], in n lanes that were truncated. lanes: their indices in the block."""
        self.followed.append((torch.from_numpy(lanes), torch.full((len(lanes),), step), observations))

    def finish(self, final_observations: Tensor, drawn: Sequence[Task]) -> Rollouts:
        """The rollouts, without advantages. final_observations: [M·N, O]. drawn: the tasks."""
        tasks, lanes, _ = self.shape
        rewards, start, terminated, truncated = (
            column.permute(1, 2, 0).contiguous()
            for column in (self.rewards[1:], self.starts[:-1], self.terminated, self.truncated)
        )
        observations, actions, episode_noise = (
            column.permute(1, 2, 0, 3).contiguous()
            for column in (self.observations, torch.stack(self.actions), torch.stack(self.episode_noise))
        )
        mask = torch.ones(self.shape)
        if self.layout.padded:
            mask = (start.cumsum(-1) <= self.layout.episodes).float()
            start, terminated, truncated = (flag & (mask > 0) for flag in (start, terminated, truncated))
        data = Rollouts.recorded(
            observations,
            actions,
            rewards,
            type(self.distributions[0]).recorded(self.distributions),  # type: ignore[arg-type]
            mask,
            start,
            terminated,
            truncated,
            final_observations.view(tasks, lanes, -1),
            episode_noise,
            self._in_order(truncated) if self.followed else None,
        )
        data.identity = torch.tensor([task.identity for task in drawn])
        if self.success:
            data.success = self._success()
        if self.blow_ups:
            data.blow_ups = self._blow_ups()
        return data

    def _in_order(self, truncated: Tensor) -> Tensor:
        """What followed truncated steps, [n, O], by lane and step, that of padding left out."""
        lanes, steps, observations = (torch.cat(column) for column in zip(*self.followed, strict=True))
        order = (lanes * self.layout.length + steps).argsort()
        return observations[order][truncated.flatten()[(lanes * self.layout.length + steps)[order]]]

    def _success(self) -> Tensor:
        tasks, lanes, length = self.shape
        values = np.stack(self.success).astype(np.float32).reshape(length, tasks, lanes)
        return torch.from_numpy(np.ascontiguousarray(values.transpose(1, 2, 0)))

    def _blow_ups(self) -> Tensor:
        tasks, lanes, _ = self.shape
        return torch.from_numpy(np.sum(self.blow_ups, axis=0).reshape(tasks, lanes).sum(1).astype(np.float32))
