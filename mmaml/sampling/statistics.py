"""Statistics of the episodes that a collection holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from mmaml.envs.base import Task
from mmaml.envs.check.scale import USABLE
from mmaml.sampling.rollouts import Rollouts


def episode_statistics(rollouts: Rollouts) -> dict[str, np.ndarray]:
    """Undiscounted returns of the whole episodes of each task, float64 [M]: mean, std, min, max, episodes, success.

    success: share of whole episodes in which it was reported at some step, NaN where the family has none.
    """
    mask = rollouts.mask.numpy() > 0
    done = (rollouts.terminated | rollouts.truncated).numpy()
    rewards = np.where(mask, rollouts.rewards.numpy(), 0.0).astype(np.float64)
    success = rollouts.success.numpy()
    names = ("mean", "std", "min", "max", "episodes", "success")
    statistics = {name: np.empty(rollouts.tasks) for name in names}
    for task in range(rollouts.tasks):
        starts = np.flatnonzero(rollouts.episode_start[task].numpy())
        whole = np.add.reduceat(done[task].reshape(-1).astype(np.int64), starts) > 0
        returns = np.add.reduceat(rewards[task].reshape(-1), starts)[whole]
        reached = np.maximum.reduceat(np.where(mask[task], success[task], 0.0).reshape(-1), starts)[whole]
        row = (returns.mean(), returns.std(), returns.min(), returns.max(), len(returns), reached.mean())
        for name, value in zip(names, row, strict=True):
            statistics[name][task] = value
    return statistics


def stages_of(collections: Sequence[Rollouts], by_episode: bool, count: int, horizon: int) -> list[Rollouts]:
    """What was sampled at each stage of learning a task: the collections, or the episodes of a trial.

    by_episode: each lane of the one collection is a trial, whose first `count` episodes, of `horizon` steps at most,
    are the stages.
    """
    if not by_episode:
        return list(collections)
    (trial,) = collections
    return [trial.episode(number, horizon) for number in range(count)]


def stage_statistics(
    collections: Sequence[Rollouts], stages: Sequence[Rollouts], tasks: Sequence[Task], seconds: np.ndarray
) -> dict[str, np.ndarray]:
    """Statistics of the episodes of each stage, [m, stages]; of all collections mode, env_steps, the seconds and the
    largest_reward, regardless of its sign.
    """
    columns = [episode_statistics(stage) for stage in stages]
    names = {name: "return" if name == "mean" else f"return_{name}" for name in ("mean", "std", "min", "max")}
    names |= {"episodes": "episodes", "success": "success"}
    result = {new: np.stack([column[old] for column in columns], axis=1) for old, new in names.items()}
    result["blow_ups"] = torch.stack([collection.blow_ups for collection in collections], 1).numpy()
    result["mode"] = np.array([task.mode for task in tasks])
    real_steps = [collection.mask.sum((1, 2)) for collection in collections]
    result["env_steps"] = torch.stack(real_steps).sum(0).numpy().astype(np.int64)
    largest = [(collection.rewards * collection.mask).abs().amax((1, 2)) for collection in collections]
    result["largest_reward"] = torch.stack(largest).amax(0).numpy()
    result["seconds"] = np.tile(seconds, (len(tasks), 1))
    return result


def too_large_to_read(sampled: Mapping[str, np.ndarray]) -> str:
    """What is wrong with rewards that a network reads as they are, of `stage_statistics`; "" if nothing is."""
    largest = sampled["largest_reward"].max()
    return "" if largest <= USABLE else f"is as large as {largest:.4g}, which saturates a network that reads it"
