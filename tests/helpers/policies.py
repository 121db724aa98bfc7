"""Trained policies, and loops in which they live."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

import mmaml
from mmaml.config.keys import Config
from mmaml.envs.base import TaskVectorEnv
from mmaml.sampling.policy_spaces import PolicySpaces
from mmaml.seeding import generator, integer
from mmaml.storage import checkpoint
from mmaml.worker import Worker
from tests.helpers.support import small_config

STEPS = 3  # inner steps: more than any algorithm needs to use all it remembers


def trained(folder: Path, algorithm: str = "maml", **keys: Any) -> Path:
    """The checkpoint of a run that has not begun to learn."""
    worker = Worker(config := small_config(algorithm, **keys))
    spec = worker.algorithm.spec
    state = {
        "iteration": 0,
        "env_steps": 0,
        "seconds": 0.0,
        "parameters": worker.algorithm.init(generator(config.seed, "parameters")),
        "algorithm": worker.algorithm.state_dict(),
        "config": config.to_dict(),
        "environment": PolicySpaces.of_spec(worker.spec, config.normalization_scale).record(),
    }
    assert {*state["parameters"]} == {*spec.shapes}
    return checkpoint.write(folder, 0, state)


def episode(policy: mmaml.TrainedPolicy, steps: int, seed: int = 0, lanes: int = 0) -> None:
    """Random observations and rewards, of one lane, or of several at once."""
    rng, size = np.random.default_rng(seed), policy.spaces.observation_size
    shape = (lanes,) if lanes else ()
    for step in range(steps):
        policy.act(rng.normal(size=(*shape, size)))
        policy.record(rng.normal(size=shape), truncated=step == steps - 1)


class WorkersNumbers:
    """A generator that gives the numbers that the worker draws for a task in one collection."""

    def __init__(self, config: Config, task: int, collection: int) -> None:
        keys = (0, task, collection)
        self._actions = generator(config.seed, "action", *keys, purpose="test")
        self._episodes = generator(config.seed, "episode", *keys, purpose="test")

    def standard_normal(self, shape: tuple[int, ...], dtype: Any = None) -> np.ndarray:
        if dtype is None:
            return self._episodes.standard_normal(shape)
        return self._actions.standard_normal(shape, dtype=dtype)

    def gumbel(self, size: tuple[int, ...]) -> np.ndarray:
        return self._actions.gumbel(size=size)


def run_lanes(policy: mmaml.TrainedPolicy, env: TaskVectorEnv, config: Config, task: int, collection: int) -> None:
    """One collection of a task: all its lanes at once, as a user with a vector environment would have it."""
    rng: Any = WorkersNumbers(config, task, collection)
    seed = integer(config.seed, "environment", 0, task, collection, purpose="test")
    observation, _ = env.reset(seed=[seed])
    over = np.zeros(env.num_envs, bool)
    while not over.all():
        observation, reward, terminated, truncated, _ = env.step(policy.act(observation, rng=rng))
        over = policy.record(reward, terminated=terminated, truncated=truncated, observation=observation)


def by_worker(worker: Worker, path: Path) -> list[Any]:
    """The states of the tasks of a meta-batch, on the worker's own rollouts, after each inner step."""
    algorithm, config = worker.algorithm, worker.config
    parameters = algorithm.spec.flatten(checkpoint.load(path)["parameters"])
    tasks = worker.sample_tasks(config.meta_batch_size, 0, "test")
    worker.collect(parameters, None, list(enumerate(tasks)), 0, "test", STEPS + 1)
    assert worker.block is not None
    meta = {k: v.expand(len(tasks), *v.shape) for k, v in algorithm.spec.unflatten(parameters).items()}
    states = [algorithm.begin(meta, worker.block.rollouts[0].identity)]
    for step in range(STEPS):
        states.append(algorithm.adapt(meta, states[-1], worker.block.rollouts[: step + 1]))
    return states


def leaves(value: Any) -> list[torch.Tensor]:
    """All tensors of a packed state, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [leaf for item in items for leaf in leaves(item)]


def saved_state(policy: mmaml.TrainedPolicy, path: Path) -> list[torch.Tensor]:
    """All tensors of what a policy has adapted to. path: of the file that is written on the way."""
    policy.save(path)
    return leaves(checkpoint.load(path)["adapted"]["state"])


def of_task(values: list[torch.Tensor], like: list[torch.Tensor], task: int) -> list[torch.Tensor]:
    """Of tensors of all tasks those of one. The dimension of the tasks is where a single task has 1."""
    found = []
    for value, single in zip(values, like, strict=True):
        where = next(i for i, (a, b) in enumerate(zip(value.shape, single.shape, strict=True)) if a != b and b == 1)
        found.append(value.narrow(where, task, 1))
    return found
