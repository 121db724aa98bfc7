"""`mmaml.load`: a policy in a loop of the user's own does what training's worker does."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import mmaml
from mmaml.config.algorithms import ALGORITHMS
from mmaml.config.keys import Config
from mmaml.envs.base import Task, TaskVectorEnv
from mmaml.envs.registry import make_family
from mmaml.seeding import generator, integer
from mmaml.storage import checkpoint
from mmaml.storage.packing import packed
from mmaml.worker import Worker
from tests.helpers.support import small_config

ROOT = Path(__file__).parents[2]
OLD_RUNS = ROOT / "tests" / "data" / "runs_of_0.1.0"
PROBES = "tests.helpers.probes:"
STEPS = 3  # more than any algorithm needs to use all it remembers
Lane = Mapping[str, Any]


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
        "environment": worker.spaces.record(),
    }
    assert {*state["parameters"]} == {*spec.shapes}
    return checkpoint.write(folder, 0, state)


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
    policy.save(path)
    return leaves(checkpoint.load(path)["adapted"]["state"])


def of_task(values: list[torch.Tensor], like: list[torch.Tensor], task: int) -> list[torch.Tensor]:
    """Of tensors of all tasks those of one. The dimension of the tasks is where a single task has 1."""
    found = []
    for value, single in zip(values, like, strict=True):
        where = next(i for i, (a, b) in enumerate(zip(value.shape, single.shape, strict=True)) if a != b and b == 1)
        found.append(value.narrow(where, task, 1))
    return found


@pytest.mark.parametrize("env", ["MetaPointEnvMomentumModes", "CartPoleMassEnv"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_users_loop_adapts_as_the_worker_does(tmp_path: Path, algorithm: str, env: str) -> None:
    """The same rollouts, the same adapted parameters, to the bit, after every inner step, of each task."""
    path = trained(tmp_path, algorithm, env=env)
    config = mmaml.load(path).config
    worker = Worker(config)
    expected = by_worker(worker, path)
    tasks = worker.sample_tasks(config.meta_batch_size, 0, "test")
    for index in (0, 2):
        policy = mmaml.load(path)
        family = make_family(env, 1, config.rollouts_per_meta_task)
        family.set_tasks([tasks[index]])
        for step in range(STEPS):
            run_lanes(policy, family, config, index, step)
            policy.adapt()
            found = saved_state(policy, tmp_path / "adapted.pt")
            wanted = of_task(leaves(packed(expected[step + 1])), found, index)
            assert all(map(torch.equal, found, wanted)), (algorithm, step)
            assert worker.block is not None
        acted = [fields["actions"] for fields in checkpoint.load(tmp_path / "adapted.pt")["adapted"]["collections"]]
        sampled = [collection.actions[index : index + 1] for collection in worker.block.rollouts]
        assert all(map(torch.equal, acted, sampled[:STEPS]))
