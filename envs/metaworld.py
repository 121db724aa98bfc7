"""Meta-World's benchmarks, by its package of that name: ML1, ML10, ML25, ML45, MT1, MT10, MT25, MT50.

| observation | meaning                                                                               |
|-------------|---------------------------------------------------------------------------------------|
| 0 … 2       | position of the hand, m                                                               |
| 3           | how far the gripper is open, 0 … 1                                                    |
| 4 … 17      | positions, m, and quaternions (x, y, z, w) of up to 2 objects, 0 where there are none |
| 18 … 35     | the same one step before                                                              |
| 36 … 38     | position of the goal, m, in MT; 0 in ML, where only the rewards reveal it             |
| 39 …        | which environment it is, as a one-hot vector, where `one_hot` says so                 |

| action | meaning                                                    |
|--------|------------------------------------------------------------|
| 0 … 2  | by how much to drag the hand in x, y and z, in units of 1 cm |
| 3      | force that closes the gripper, opens it where negative     |

Rewards are Meta-World's; those of "v2" are 0 … 10. An episode is truncated after 500 steps; "success" is that of the
step. Environments are the modes; one benchmark's training and test tasks may be of different ones. Each environment has
the 50 tasks (places of objects and goal) that Meta-World draws for a seed, and all episodes of a task begin in the same
state.

Source: Yu et al. 2019, "Meta-World"; McLean et al. 2025, "Meta-World+", whose version 3 this is.
"""

from __future__ import annotations

import difflib
import pickle
from collections.abc import Mapping, Sequence
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from mmaml.envs.arguments import choice
from mmaml.envs.base import StepResult, Task, TaskVectorEnv
from mmaml.errors import ConfigError

if TYPE_CHECKING:
    from mmaml.envs.sawyer import Lanes, Pose, Sawyer

VERSIONS = {"metaworld": "3.1.1", "mujoco": "3.3.0"}  # of packages; the second is the one that the first requires
MUJOCO_4 = ("mujoco-core", "mujoco-studio")  # which pip leaves behind, and whose files an older MuJoCo cannot load
ACTIONS, OBSERVATIONS = 4, 39
HORIZON = 500  # steps of an episode
ONE_HOT = ("MT10", "MT25", "MT50")  # benchmarks whose observations name the environment by default
REWARD_VERSIONS = ("v1", "v2")
OTHERS = ("ML10", "ML25", "ML45", *ONE_HOT)
BENCHMARKS = (*OTHERS, "ML1-NAME", "MT1-NAME")  # with NAME for that of an environment


class MetaWorld(TaskVectorEnv):
    """M·N lanes of a benchmark's tasks.

    benchmark: "ML1-NAME" or "MT1-NAME" for an environment of Meta-World, or one of `OTHERS`. benchmark_seed: from which
    Meta-World draws the benchmark's tasks. one_hot: append which environment it is to observations; None: in MT10, MT25
    and MT50. reward_version: "v1", of the first Meta-World, or "v2".

    The values of a task are "environment", a name, and "rand_vec" [3 … 7], where its objects and its goal are. n tasks
    are of as equal numbers of a split's environments as n allows, and no two the same before all of an environment have
    been used. Raises ConfigError of "env" where Meta-World is missing, or another version, or has no such benchmark.
    """

    finite_horizon = True
    tasks_per_mode = 50

    def __init__(
        self,
        num_tasks: int = 1,
        rollouts_per_task: int = 1,
        *,
        benchmark: str,
        benchmark_seed: int = 0,
        one_hot: bool | None = None,
        reward_version: str = "v2",
    ) -> None:
        if isinstance(benchmark_seed, bool) or not isinstance(benchmark_seed, int) or not 0 <= benchmark_seed < 2**31:
            raise ValueError(f"benchmark_seed: expected a whole number from 0 to 2^31 - 1, got {benchmark_seed!r}")
        if one_hot is not None and not isinstance(one_hot, bool):
            raise ValueError(f"one_hot: expected true, false or null, got {one_hot!r}")
        self._reward_version = choice("reward_version", reward_version, REWARD_VERSIONS)
        self.environments = environments_of(benchmark)
        self.splits = tuple(self.environments)
        self.hides_goal = benchmark.startswith("ML")
        self.mode_names = tuple(dict.fromkeys(name for names in self.environments.values() for name in names))
        self.num_modes = len(self.mode_names)
        self._benchmark_seed = benchmark_seed
        self._one_hot = benchmark in ONE_HOT if one_hot is None else one_hot
        size = OBSERVATIONS + self._one_hot * self.num_modes
        super().__init__(
            num_tasks,
            rollouts_per_task,
            gym.spaces.Box(-np.inf, np.inf, (size,), np.float32),
            gym.spaces.Box(-1, 1, (ACTIONS,), np.float32),
        )
        self._lanes: list[Lanes] = []  # of each task
        self._observations = np.zeros((self.num_envs, OBSERVATIONS))
        self._lengths = np.zeros(self.num_envs, int)  # steps of each lane's episode so far

    def step(self, actions: np.ndarray) -> StepResult:
        self._check_started()
        actions = np.clip(actions, -1, 1).astype(np.float32)
        rewards, solved = np.zeros(self.num_envs, np.float32), np.zeros(self.num_envs, bool)
        for task, lanes in enumerate(self._lanes):
            rows = slice(task * self.rollouts_per_task, (task + 1) * self.rollouts_per_task)
            results = lanes.step(actions[rows], self._observations[rows])
            rewards[rows] = [reward for reward, _ in results]
            solved[rows] = [info["success"] for _, info in results]
        self._lengths += 1
        never = np.zeros(self.num_envs, bool)
        return self._observe(), rewards, never, self._lengths >= HORIZON, {"success": solved}

    def pose(self, lane: int) -> tuple[str, Pose]:
        """What a picture of a lane shows: the environment's name, and how it stands."""
        task, index = divmod(lane, self.rollouts_per_task)
        return self.tasks[task].values["environment"], self._lanes[task].pose(index)

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        names = self.environments[split]
        places = goals_of(names, self._benchmark_seed + (split == "test" and len(self.mode_names) == 1))
        order = [names[index] for index in rng.permutation(len(names))]
        left: dict[str, list[int]] = {name: [] for name in names}
        tasks = []
        for index in range(n):
            name = order[index % len(order)]
            left[name] = left[name] or rng.permutation(len(places[name])).tolist()
            values = {"environment": name, "rand_vec": places[name][left[name].pop()]}
            tasks.append(Task(self.mode_names.index(name), values))
        return tasks

    def _set_tasks(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            if task.values.get("environment") not in self.mode_names:
                raise ValueError(
                    f"tasks: expected 'environment' to be one of {self.mode_names}, got {dict(task.values)}"
                )
        self._lanes = [self._lanes_of(task) for task in tasks]
        self._names = np.repeat(np.eye(self.num_modes)[[task.mode for task in tasks]], self.rollouts_per_task, axis=0)

    def _lanes_of(self, task: Task) -> Lanes:
        from mmaml.envs.sawyer import Lanes

        sawyer, rand_vec = sawyer_of(task.values["environment"]), np.asarray(task.values["rand_vec"], np.float64)
        start = sawyer.start(rand_vec, self.hides_goal, self._reward_version)
        return Lanes(sawyer, start, self.rollouts_per_task)

    def _reset_lanes(self, task: int, lanes: np.ndarray, rng: np.random.Generator) -> None:
        for lane in lanes:
            self._observations[lane] = self._lanes[task].reset(lane - task * self.rollouts_per_task)
        self._lengths[lanes] = 0

    def _observe(self) -> np.ndarray:
        parts = [self._observations, self._names] if self._one_hot else [self._observations]
        return np.concatenate(parts, axis=1, dtype=np.float32)


@cache
def package() -> Any:
    """Meta-World's package. Raises ConfigError if it is not there, or in versions that do not work together."""
    found = {name: _installed(name) for name in VERSIONS}
    newer = {MUJOCO_4[0]: there} if (there := _installed(MUJOCO_4[0])) else {}
    if found != VERSIONS or newer:
        expected = " and ".join(f"{name} {wanted}" for name, wanted in VERSIONS.items())
        got = (f"{name} {there}" if there else f"no {name}" for name, there in (found | newer).items())
        first = f"pip uninstall -y mujoco {' '.join(MUJOCO_4)} && " if newer else ""
        raise ConfigError(
            "env",
            expected=f"{expected} for Meta-World",
            got=" and ".join(got),
            remedy=f'install them with: {first}pip install "mmaml[metaworld]"',
        )
    import metaworld.evaluation

    return metaworld


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def environments_of(benchmark: str) -> Mapping[str, tuple[str, ...]]:
    """The names of a benchmark's environments, by split. Raises ConfigError if there is no such benchmark."""
    kind, _, name = benchmark.partition("-")
    of_one = kind in ("ML1", "MT1")
    if not of_one and benchmark not in OTHERS:
        raise _no_benchmark(benchmark, _nearest(benchmark, OTHERS) or "see docs/environments.md")
    known = package().env_dict
    if of_one and name not in known.ALL_V3_ENVIRONMENTS:
        every = [*known.ALL_V3_ENVIRONMENTS]
        near = _nearest(benchmark, [f"{kind}-{name}" for name in every]) if name else ""
        raise _no_benchmark(benchmark, near or f"the names are {', '.join(every)}")
    if of_one:
        return {"train": (name,)} | ({"test": (name,)} if kind == "ML1" else {})
    classes = getattr(known, f"{benchmark}_V3")
    if benchmark in ONE_HOT:
        return {"train": tuple(classes)}
    return {split: tuple(classes[split]) for split in ("train", "test")}


def _no_benchmark(benchmark: str, remedy: str) -> ConfigError:
    expected = f"Meta-World/ and one of {', '.join(BENCHMARKS)}, with a NAME such as reach-v3"
    return ConfigError("env", expected=expected, got=f"'Meta-World/{benchmark}'", remedy=remedy)


def _nearest(benchmark: str, names: Sequence[str]) -> str:
    """The question whether one of these names was meant, whatever its case; "" if none is like it."""
    in_lower_case = {name.lower(): name for name in names}
    near = difflib.get_close_matches(benchmark.lower(), in_lower_case, n=1, cutoff=0.75)
    return f"did you mean 'Meta-World/{in_lower_case[near[0]]}'?" if near else ""


@cache
def sawyer_of(name: str) -> Sawyer:
    """What steps the lanes of an environment, in all families of this process."""
    from mmaml.envs.sawyer import Sawyer

    return Sawyer(package().env_dict.ALL_V3_ENVIRONMENTS[name])


@cache
def goals_of(names: tuple[str, ...], seed: int) -> dict[str, list[np.ndarray]]:
    """The tasks that Meta-World draws for environments from a seed: 50 vectors each.

    Drawn by its own function, with environments that do not simulate how the hand is reset, on which they do not
    depend.
    """
    classes = {name: partial(_without_simulation, name) for name in names}
    arguments = {name: {"args": [], "kwargs": {"task_id": 0}} for name in names}
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for task in package()._make_tasks(classes, arguments, {}, seed):
        drawn[task.env_name].append(rand_vec_of(task))
    return drawn


def _without_simulation(name: str) -> Any:
    return sawyer_of(name).fresh(simulates=False)


def rand_vec_of(task: Any) -> np.ndarray:
    """Where a task of Meta-World puts objects and goal."""
    return np.asarray(pickle.loads(task.data)["rand_vec"], np.float64)
