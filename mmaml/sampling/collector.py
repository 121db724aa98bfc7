"""Roll out a block of tasks in lock-step: one policy call and one environment update a time step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmaml.envs import block_answers
from mmaml.envs.answers import Refused, SuccessReports
from mmaml.envs.base import StepResult, Task, TaskVectorEnv
from mmaml.envs.spaces import to_environment
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
    record, successes = _Record(tasks, lanes, layout), SuccessReports()
    age = np.zeros(tasks * lanes, int)  # steps since the start of the episode

    def seen(observation: np.ndarray) -> Tensor:
        values = torch.from_numpy(observation)
        return values.float() if scaling is None else scaling.normalised(values)

    carried: Any = None
    action, reward = torch.zeros(tasks, lanes, noise.shape[-1]), torch.zeros(tasks, lanes)
    done, own_noise = torch.ones(tasks, lanes, dtype=torch.bool), episode_noise[:, 0]
    observation = _reset(env, seed=list(seeds))
    begun = torch.zeros(tasks, lanes, dtype=torch.long)  # episodes of the lane
    for t in range(layout.length):
        if observed is not None:
            begun += done
            real = torch.full_like(done, True) if not layout.padded else begun <= layout.episodes
            observed.add(observation.reshape(tasks, lanes, -1), real.numpy())
        step = Step(seen(observation).view(tasks, lanes, -1), action, reward, done, own_noise)
        distribution, carried = actor(step, carried)
        action = distribution.sample(noise[:, t])
        reached("time step")
        env_action = to_environment(action.flatten(0, 1).numpy(), env.single_action_space, normalization_scale)
        try:
            observation, rewards, terminated, truncated, infos = _step(env, env_action, successes)
        except EnvironmentFailed as error:
            error.given = finite.finding_of_step(step.observation, distribution, action, t)
            raise
        age += 1
        truncated = truncated | ((age == layout.horizon) & ~terminated)
        record.append(step, action, distribution, rewards, terminated, truncated, infos)
        if not env.finite_horizon:
            record.follow(t, np.flatnonzero(truncated), seen(observation[truncated]))

        reward = torch.from_numpy(rewards).view(tasks, lanes)
        ended = terminated | truncated
        done = torch.from_numpy(ended).view(tasks, lanes)
        if ended.any() and t < layout.length - 1:
            observation = _reset(env, options={"reset_mask": ended.copy()})
            age[ended] = 0
            if own_noise.shape[-1]:
                own_noise = torch.where(done[..., None], episode_noise[:, t + 1], own_noise)
    return record.finish(seen(observation).view(tasks, lanes, -1), env.tasks)


def _reset(env: TaskVectorEnv, **arguments: Any) -> np.ndarray:
    """A copy of the observations of `env.reset`."""
    with FromEnvironment(env):
        output = env.reset(**arguments)
        try:
            return block_answers.of_reset(output, _observations_of(env))
        except Refused as refused:
            raise refused.in_method(f"{type(env).__name__}.reset") from None


def _step(env: TaskVectorEnv, actions: np.ndarray, successes: SuccessReports) -> StepResult:
    """Copies of what training reads of `env.step`. successes: of the steps before."""
    with FromEnvironment(env):
        output = env.step(actions)
        try:
            result = block_answers.of_step(output, _observations_of(env))
            successes.note("infos['success']", "success" in result[4])
            return result
        except Refused as refused:
            raise refused.in_method(f"{type(env).__name__}.step") from None


def _observations_of(env: TaskVectorEnv) -> tuple[int, ...]:
    return (env.num_envs, *env.single_observation_space.shape)  # type: ignore[misc]


class _Record:
    """Steps as they come, time first; turned into dense [M, N, T, …] arrays at the end."""

    def __init__(self, tasks: int, lanes: int, layout: Lanes) -> None:
        self.shape, self.layout = (tasks, lanes, layout.length), layout
        self.steps: list[tuple[Tensor, ...]] = []
        self.distributions: list[Distribution] = []
        self.success: list[np.ndarray] = []
        self.blow_ups: list[np.ndarray] = []
        self.followed: list[tuple[Tensor, Tensor, Tensor]] = []

    def append(
        self,
        step: Step,
        action: Tensor,
        distribution: Distribution,
        reward: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        infos: Mapping[str, np.ndarray],
    ) -> None:
        flags = (step.episode_start, torch.from_numpy(terminated), torch.from_numpy(truncated))
        self.steps.append((step.observation, action, torch.from_numpy(reward), step.episode_noise, *flags))
        self.distributions.append(distribution)
        if "success" in infos:
            self.success.append(infos["success"])
        if "blow_up" in infos:
            self.blow_ups.append(infos["blow_up"])

    def follow(self, step: int, lanes: np.ndarray, observations: Tensor) -> None:
        """What followed a step, [n, O], in n lanes that were truncated. lanes: their indices in the block."""
        self.followed.append((torch.from_numpy(lanes), torch.full((len(lanes),), step), observations))

    def finish(self, final_observations: Tensor, drawn: Sequence[Task]) -> Rollouts:
        tasks, lanes, length = self.shape
        columns = [torch.stack(column) for column in zip(*self.steps, strict=True)]
        observations, actions, rewards, episode_noise, start, terminated, truncated = (
            column.view(length, tasks, lanes, column[0].numel() // (tasks * lanes)).permute(1, 2, 0, 3).contiguous()
            for column in columns
        )
        start, terminated, truncated = (flag.squeeze(-1) for flag in (start, terminated, truncated))
        mask = torch.ones(self.shape)
        if self.layout.padded:
            mask = (start.cumsum(-1) <= self.layout.episodes).float()
            start, terminated, truncated = (flag & (mask > 0) for flag in (start, terminated, truncated))
        data = Rollouts.recorded(
            observations,
            actions,
            rewards.squeeze(-1),
            type(self.distributions[0]).recorded(self.distributions),  # type: ignore[arg-type]
            mask,
            start,
            terminated,
            truncated,
            final_observations,
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
