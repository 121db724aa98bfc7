"""Sampling of MuJoCo families against raw physics, on one core: `python benchmarks/physics.py [FAMILY ...]`

The raw loop is Python that calls `mj_step` and nothing else: the same model, frame skip, number of steps, states in
which episodes begin, and controls. Sampling adds the policy, observations, rewards, resets, and the arrangement as
dense [M, N, T, …] arrays. Then the lanes of one task on several threads, and gymnasium's vector environments over the
same family, 16 at a time, stepped with random actions and without a policy; AsyncVectorEnv has a process for each, on
all cores.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmaml.process_settings import prepare_process

prepare_process()  # before NumPy and torch load
import gymnasium as gym
import mujoco
import numpy as np
import torch

from benchmarks.helpers.arguments import chosen
from mmaml.config.loading import build_config
from mmaml.envs.mujoco.base import MujocoFamily
from mmaml.envs.registry import gym_id, make_family
from mmaml.sampling.collector import Lanes, rollout
from mmaml.seeding import generator
from mmaml.worker import Worker

# To reach: the share of the raw loop's rate.
FAMILIES = {
    "Reacher3LinkEnv": 0.8,
    "HalfCheetahRandDirecEnv": 0.9,
    "AntRandGoalEnv": 0.9,
    "AntRandGoalModeEnv": 0.9,
    "HumanoidRandDirecEnv": 0.9,
}
TASKS, LANES, HORIZON, REPEATS = 20, 20, 25, 3
RAW_LANES = range(0, TASKS * LANES, 20)
VECTOR_ENVS, VECTOR_STEPS = 16, 100
THREADS, THREAD_STEPS = (2, 3, 8), 40


class Sampling:
    """One collection of a block of tasks by the policy that training starts with."""

    def __init__(self, name: str) -> None:
        config = build_config({"algorithm": "mmaml", "env": name, "max_path_length": HORIZON})
        self.worker = Worker(config)
        algorithm = self.worker.algorithm
        flat = algorithm.spec.flatten(algorithm.init(generator(0, "parameters")))
        meta = {key: value.expand(TASKS, *value.shape) for key, value in algorithm.spec.unflatten(flat).items()}
        self.actor = algorithm.actor(algorithm.begin(meta, torch.zeros(TASKS, dtype=torch.long)))
        self.env: Any = make_family(name, TASKS, LANES)
        assert isinstance(self.env, MujocoFamily)
        self.env.set_tasks(self.worker.sample_tasks(TASKS, 0))

    def __call__(self) -> None:
        noise = self.worker._noise([(0, task, 0) for task in range(TASKS)], "train", HORIZON)
        rollout(self.env, self.actor, Lanes(HORIZON), noise, list(range(TASKS)), self.env.normalization_scale)

    def record(self) -> list[tuple[np.ndarray, ...]]:
        """Of each step: which lanes begin an episode, positions and velocities before it, controls; [M·N, …] each."""
        steps: list[tuple[np.ndarray, ...]] = []
        step, begins = self.env.step, np.ones(TASKS * LANES, bool)
        bounds = self.env.single_action_space

        def recording(actions: np.ndarray) -> Any:
            nonlocal begins
            controls = np.clip(actions, bounds.low, bounds.high)
            steps.append((begins, self.env.qpos.copy(), self.env.qvel.copy(), controls))
            result = step(actions)
            begins = result[2] | result[3]
            return result

        self.env.step = recording
        self()
        del self.env.step
        return steps


def raw_loop(model: mujoco.MjModel, frame_skip: int, steps: list[tuple[np.ndarray, ...]]) -> int:
    """Step some lanes as they were recorded, one after the other. Returns the number of env steps."""
    data = mujoco.MjData(model)
    for lane in RAW_LANES:
        for begins, qpos, qvel, controls in steps:
            if begins[lane]:
                mujoco.mj_resetData(model, data)
                data.qpos[:], data.qvel[:] = qpos[lane], qvel[lane]
            data.ctrl[:] = controls[lane]
            for _ in range(frame_skip):
                mujoco.mj_step(model, data)
    return len(RAW_LANES) * len(steps)


def vector_rate(make: Callable[..., Any], name: str) -> float:
    """Env steps/s of one of gymnasium's vector environments."""
    env = make([lambda: gym.make(gym_id(name))] * VECTOR_ENVS)
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(VECTOR_STEPS)]
    clock = time.perf_counter()
    for action in actions:
        env.step(action)
    rate = VECTOR_ENVS * VECTOR_STEPS / (time.perf_counter() - clock)
    env.close()
    return rate


def in_threads(name: str) -> list[str]:
    """Steps of one task's lanes with several threads: how much faster, and CPU seconds, relative to one thread."""
    env: Any = make_family(name, 1, LANES)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(THREAD_STEPS)]
    wall: dict[int, float] = {}
    cpu: dict[int, float] = {}
    for _ in range(REPEATS):
        for threads in (1, *THREADS):
            env.use_threads(threads)
            env.reset(seed=0)
            clock, cpu_clock = time.perf_counter(), time.process_time()
            for action in actions:
                env.step(action)
            wall[threads] = min(wall.get(threads, math.inf), time.perf_counter() - clock)
            cpu[threads] = min(cpu.get(threads, math.inf), time.process_time() - cpu_clock)
    env.close()
    return [f"{n} threads {wall[1] / wall[n]:.1f}x as fast, {cpu[n] / cpu[1]:.2f}x the CPU seconds" for n in THREADS]


def main() -> None:
    names = chosen(__doc__, "family", FAMILIES)
    torch.set_num_threads(1)
    for name in names:
        sampling = Sampling(name)
        steps = sampling.record()
        ours, raw = [], []
        for _ in range(REPEATS):  # in turn, so that both meet the same machine
            clock = time.perf_counter()
            sampling()
            ours.append(TASKS * LANES * HORIZON / (time.perf_counter() - clock))
            clock = time.perf_counter()
            count = raw_loop(sampling.env.model, sampling.env.frame_skip, steps)
            raw.append(count / (time.perf_counter() - clock))
        rate, goal = max(ours), FAMILIES[name]
        print(f"{name}: {rate:,.0f} env steps/s on one core, raw loop {max(raw):,.0f}")
        print(f"  sampling / raw loop: {rate / max(raw):.2f}" + (f" (to reach: {goal})" if goal else ""))
        print(f"  the {LANES} lanes of one task: {'; '.join(in_threads(name))}")
        for kind in (gym.vector.SyncVectorEnv, gym.vector.AsyncVectorEnv):
            print(f"  sampling / {kind.__name__}: {rate / vector_rate(kind, name):.1f}")


if __name__ == "__main__":
    main()
