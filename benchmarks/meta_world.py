"""Steps of Meta-World here and by its own `env.step`, on one core: `python benchmarks/meta_world.py [NAME …]`

CPU time of the same actions: without resets, of episodes of 500 steps with the resets that begin them, and of what
remains of a step without Python: MuJoCo's own 5 steps and one forward pass. Then how long a process takes until the 40
tasks of a meta-batch of ML10 have been reset.
"""

from __future__ import annotations

import pickle
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmaml.process_settings import prepare_process

prepare_process()  # before NumPy and torch load
import numpy as np

from benchmarks.helpers.arguments import parsed, refuse
from mmaml.cli.script import Parser
from mmaml.envs.metaworld import HORIZON, goals_of, package, sawyer_of
from mmaml.envs.registry import make_family
from mmaml.errors import ConfigError, UsageError

TO_REACH = 2.0  # times Meta-World's own rate
NAMES = ("reach-v3", "push-v3", "pick-place-v3", "door-open-v3", "drawer-close-v3")
LANES, STEPS, REPEATS = 10, 30, 5


def cpu(body: Callable[[], Any]) -> float:
    start = time.process_time()
    body()
    return time.process_time() - start


class Own:
    """Meta-World's environment, with the first task."""

    def __init__(self, name: str) -> None:
        environment_class = package().env_dict.ALL_V3_ENVIRONMENTS[name]
        values = {"rand_vec": goals_of((name,), 0)[name][0], "env_cls": environment_class, "partially_observable": True}
        self.env = environment_class()
        self.env.set_task(package().types.Task(name, pickle.dumps(values)))
        self.env.reset()

    def play(self, actions: np.ndarray) -> None:
        for action in actions:
            self.env.step(action)

    def physics(self, actions: np.ndarray) -> None:
        import mujoco

        model, data = self.env.model, self.env.data
        for action in actions:
            self.env.set_xyz_action(action[:3])
            data.ctrl[:] = action[3], -action[3]
            mujoco.mj_step(model, data, self.env.frame_skip)
            mujoco.mj_forward(model, data)


def steps(name: str) -> tuple[float, float, float, float]:
    """µs of a step: ours, Meta-World's own, its physics; ms of Meta-World's own reset. Medians of alternate runs."""
    own, family = Own(name), make_family(f"Meta-World/ML1-{name}", 1, LANES)
    family.set_tasks(family.sample_tasks(1, np.random.default_rng(0)))
    times = []
    for repeat in range(REPEATS):
        actions = np.random.default_rng(repeat).uniform(-1, 1, (STEPS, LANES, 4)).astype(np.float32)
        reset = cpu(own.env.reset)
        family.reset(seed=0)
        ours = cpu(lambda actions=actions: [family.step(action) for action in actions])
        theirs = cpu(lambda actions=actions: own.play(actions.reshape(-1, 4)))
        own.env.reset()
        physics = cpu(lambda actions=actions: own.physics(actions.reshape(-1, 4)))
        own.env.reset()
        times.append([1e6 * one / (STEPS * LANES) for one in (ours, theirs, physics)] + [1e3 * reset])
    ours, theirs, physics, reset = np.median(times, axis=0).tolist()
    return ours, theirs, physics, reset


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of environments (default: {', '.join(NAMES)})")
    names = parsed(parser).names or NAMES
    try:
        known = package().env_dict.ALL_V3_ENVIRONMENTS
    except ConfigError as error:
        print(f"left out: {error}")
        return
    if unknown := [name for name in names if name not in known]:
        refuse(UsageError("NAME", expected="environments of Meta-World, such as reach-v3", got=", ".join(unknown)))
    print(f"{'':16}{'here':>8}{'own':>8}{'physics':>9}   µs a step; ratio; with resets")
    for name in names:
        ours, theirs, physics, reset = steps(name)
        whole = (theirs + 1e3 * reset / HORIZON) / ours
        verdict = "reached" if theirs / ours >= TO_REACH else f"NOT reached: {TO_REACH}"
        print(f"{name:16}{ours:8.0f}{theirs:8.0f}{physics:9.0f}   {theirs / ours:.2f} ({verdict}); {whole:.2f}")
    sawyer_of.cache_clear()
    goals_of.cache_clear()

    def start() -> None:
        family = make_family("Meta-World/ML10", 40, 20)
        family.set_tasks(family.sample_tasks(40, np.random.default_rng(0)))
        family.reset(seed=0)

    print(f"start of ML10, 40 tasks x 20 lanes: {cpu(start):.1f} s of CPU")


if __name__ == "__main__":
    main()
