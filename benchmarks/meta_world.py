"""Steps of Meta-World here and by its own `env.step`, on one core: `python benchmarks/meta_world.py [NAME …]`

CPU time of the same actions from the same states: without resets, of episodes of 500 steps with the resets that begin
them, and of what remains of a step without Python, with the model of either: MuJoCo's own 5 steps and one forward pass.
Then how long a process takes until the 40 tasks of a meta-batch of ML10 have been reset.
"""

from __future__ import annotations

import pickle
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmaml.process_settings import prepare_process

prepare_process()  # before NumPy and torch load
import mujoco
import numpy as np

from benchmarks.helpers.arguments import parsed, refuse
from mmaml.cli.script import Parser
from mmaml.envs.metaworld import HORIZON, environments_of, goals_of, package, sawyer_of
from mmaml.envs.registry import make_family
from mmaml.envs.sawyer import STATE
from mmaml.errors import ConfigError, UsageError

TO_REACH = 2.0  # times Meta-World's own rate
LANES, STEPS, REPEATS = 10, 50, 6


def cpu(body: Callable[[], Any]) -> float:
    start = time.process_time()
    body()
    return time.process_time() - start


class Spent(NamedTuple):
    """µs of a step, here and by Meta-World, and of the physics in it; ratio of the two, without and with resets."""

    here: float
    here_physics: float
    own: float
    own_physics: float
    ratio: float
    ratio_with_resets: float


def own_environment(name: str, rand_vec: np.ndarray) -> Any:
    """Meta-World's environment, with a task."""
    environment_class = package().env_dict.ALL_V3_ENVIRONMENTS[name]
    values = {"rand_vec": rand_vec, "env_cls": environment_class, "partially_observable": True}
    environment = environment_class()
    environment.set_task(package().types.Task(name, pickle.dumps(values)))
    return environment


def state_of(environment: Any) -> np.ndarray:
    state = np.zeros(mujoco.mj_stateSize(environment.model, STATE))
    mujoco.mj_getState(environment.model, environment.data, state, STATE)
    return state


def physics(environment: Any, state: np.ndarray, actions: np.ndarray) -> float:
    """CPU seconds of what MuJoCo does in steps from a state [S]. actions [T, 4]."""
    model, data, seconds = environment.model, environment.data, 0.0
    mujoco.mj_setState(model, data, state, STATE)
    for action in actions:
        environment.set_xyz_action(action[:3])
        data.ctrl[:] = action[3], -action[3]
        start = time.process_time()
        mujoco.mj_step(model, data, environment.frame_skip)
        mujoco.mj_forward(model, data)
        seconds += time.process_time() - start
    return seconds


def steps(name: str) -> Spent:
    """Medians of alternate runs."""
    family = make_family(f"Meta-World/ML1-{name}", 1, LANES)
    family.set_tasks(family.sample_tasks(1, np.random.default_rng(0)))
    own = own_environment(name, family.tasks[0].values["rand_vec"])
    lean = sawyer_of(name).environment  # with the task's model, as set_tasks has left it
    runs = []
    for repeat in range(REPEATS):
        actions = np.random.default_rng(repeat).uniform(-1, 1, (STEPS, LANES, 4)).astype(np.float32)
        family.reset(seed=0)
        total = np.zeros(5)
        for ours, theirs in zip(np.array_split(actions, LANES), actions.swapaxes(0, 1), strict=True):
            here = cpu(lambda ours=ours: [family.step(action) for action in ours])
            reset = cpu(own.reset)
            state = state_of(own)
            whole = cpu(lambda theirs=theirs: [own.step(action) for action in theirs])
            total += here, physics(lean, state, theirs), whole, physics(own, state, theirs), reset
        spent = total[:4] / (STEPS * LANES)
        with_reset = spent[2] + total[4] / (LANES * HORIZON)
        runs.append([*(1e6 * spent), spent[2] / spent[0], with_reset / spent[0]])
    return Spent(*np.median(runs, axis=0).tolist())


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of environments (default: ML10's, of training)")
    names = parsed(parser).names
    try:
        known = package().env_dict.ALL_V3_ENVIRONMENTS
    except ConfigError as error:
        print(f"left out: {error}")
        return
    if unknown := [name for name in names if name not in known]:
        refuse(UsageError("NAME", expected="environments of Meta-World, such as reach-v3", got=", ".join(unknown)))
    print(f"{'':24}{'here':>6}{'physics':>9}{'own':>7}{'physics':>9}   µs a step; ratio; with resets")
    for name in names or environments_of("ML10")["train"]:
        spent = steps(name)
        verdict = "reached" if spent.ratio >= TO_REACH else f"NOT reached: {TO_REACH}"
        columns = f"{spent.here:6.0f}{spent.here_physics:9.0f}{spent.own:7.0f}{spent.own_physics:9.0f}"
        print(f"{name:24}{columns}   {spent.ratio:.2f} ({verdict}); {spent.ratio_with_resets:.2f}", flush=True)
    sawyer_of.cache_clear()
    goals_of.cache_clear()

    def start() -> None:
        family = make_family("Meta-World/ML10", 40, 20)
        family.set_tasks(family.sample_tasks(40, np.random.default_rng(0)))
        family.reset(seed=0)

    print(f"start of ML10, 40 tasks x 20 lanes: {cpu(start):.1f} s of CPU")


if __name__ == "__main__":
    main()
