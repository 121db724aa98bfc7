"""A trained policy for a loop of the user's own, on a simulator or a robot: it acts, records and adapts.

    policy = mmaml.load("out/run1")
    action = policy.act(observation)
    over = policy.record(reward, terminated=terminated)
    policy.adapt()

Neither MPI nor the task family is needed. What is adapted, and how, is the algorithm's own, as in training.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from numpy.typing import ArrayLike
from torch import Tensor

from mmaml.algorithms import make_algorithm
from mmaml.config.keys import Config
from mmaml.errors import UsageError
from mmaml.policies.distributions import Distribution, distribution_over
from mmaml.policies.params import Params
from mmaml.sampling.acting import Step
from mmaml.sampling.episodes import Episode, rollouts_of
from mmaml.sampling.finite import first_not_finite
from mmaml.sampling.normalisation import RunningStatistics, Scaling
from mmaml.sampling.policy_spaces import PolicySpaces
from mmaml.sampling.rollouts import Rollouts
from mmaml.storage import checkpoint
from mmaml.storage.compatibility import check_parameters
from mmaml.storage.files import atomic_file, make_folder, writing
from mmaml.storage.packing import packed, unpacked
from mmaml.trained_policy.export import Network, module_of, network_of, onnx_file

TOO_FAR = "load the policy with a lower inner_lr, or adapt from more episodes"
NO_TASK = -1  # identity of a task that is not one of a finite set of training tasks


@dataclass
class _Lane:
    """An episode that runs. recorded: false once a step of it was acted and not recorded; over: whether it has ended.

    Of the lane, whichever episode they were of: action [A] and reward, the last ones, zeros at first; memory: what the
    policy carries on, None at first and for one that has none.
    """

    episode: Episode
    action: Tensor
    reward: float = 0.0
    memory: Any = None
    recorded: bool = True
    over: bool = False


class _Acted(NamedTuple):
    """What `act` did last and `record` has not seen: for each of n lanes [O], [A], [1, 1, A] and its memory."""

    single: bool
    lanes: Sequence[int]
    observations: Tensor
    actions: Tensor
    distributions: Sequence[Distribution]
    memories: Sequence[Any]


class TrainedPolicy:
    """A policy, and what it has adapted to: one task.

    Episodes run in lanes: one, or several at the same time, where several simulators run. Each episode is a rollout
    that `adapt` learns from, and may have any length up to `horizon`. `mmaml.load` makes one.

    A policy that adapts by remembering does so with every step that is recorded: over all episodes of a lane, until the
    task is reset. It has no use for `adapt`.

    config: of the training run. spaces: sizes and units of observations and actions. parameters: the meta-parameters.
    statistics: those by which the run normalised observations and rewards, if it did.
    rng: what actions, and the noise of episodes, are drawn from. horizon: T, steps after which an episode is over.
    origin: the file of the parameters, for errors. Raises UsageError if they do not fit.
    """

    def __init__(
        self,
        config: Config,
        spaces: PolicySpaces,
        parameters: Params,
        statistics: RunningStatistics,
        rng: np.random.Generator,
        horizon: int,
        origin: str | Path = "",
    ) -> None:
        self.config, self.spaces, self.rng = config, spaces, rng
        self.horizon = horizon
        self._statistics = statistics
        self._scaling = Scaling.from_vector(statistics.vector())
        self._actions, self._action_size = distribution_over(spaces.actions)
        self._algorithm = make_algorithm(config, spaces.observation_size, self._action_size, self._actions)
        check_parameters(parameters, origin, self._algorithm.spec.shapes)
        self._parameters = self._algorithm.spec.flatten(parameters)
        self._meta = {name: value[None] for name, value in self._algorithm.spec.unflatten(self._parameters).items()}
        self.reset_task()

    @property
    def action_space(self) -> Box | Discrete:
        """The space of what `act` returns for one episode."""
        return self.spaces.actions

    @property
    def adapt_steps(self) -> int:
        """K, how many times training adapted to each task; 0 for a policy that adapts by remembering."""
        return self._algorithm.collections - 1

    @property
    def rollouts_per_adaptation(self) -> int:
        """N, how many rollouts training adapted from each time."""
        return self.config.rollouts_per_meta_task

    @property
    def episodes_per_trial(self) -> int:
        """E, over how many episodes of a task training had the policy remember; 1 for one without a memory."""
        return self.config.episodes_per_trial

    @property
    def adaptations(self) -> int:
        """How many times it has adapted to the present task."""
        return len(self._collections)

    @property
    def _remembers(self) -> bool:
        """Whether it adapts by remembering."""
        return self._algorithm.credit == "trial"

    @property
    def recorded_steps(self) -> int:
        """How many steps the next `adapt` learns from."""
        return sum(len(episode.rewards) for episode in self._episodes)

    def reset_task(self) -> None:
        """Forget the task: act as training left the policy, for a task that is new to it."""
        self._collections: list[Rollouts] = []
        self._go_on_from(self._algorithm.begin(self._meta, torch.tensor([NO_TASK])))

    def _go_on_from(self, state: Any) -> None:
        """Act in another state of the task, with nothing recorded yet."""
        self._state = state
        with torch.no_grad():
            self._actor = self._algorithm.actor(state)
        self._episodes: list[Episode] = []
        self._lanes: dict[int, _Lane] = {}
        self._acted: _Acted | None = None

    # Acting and recording.

    def act(
        self,
        observation: ArrayLike,
        *,
        deterministic: bool = False,
        lanes: Sequence[int] | None = None,
        rng: np.random.Generator | None = None,
    ) -> np.ndarray:
        """The next action, in the environment's units and within its bounds.

        observation: [O] where one episode runs, or [n, O] where n run at the same time. deterministic: take the mean of
        the policy, or its most probable action; else the action is drawn, which is what adaptation learns from. lanes:
        which of the running episodes the n observations are of, 0 … n-1 when None. rng: drawn from in place of the
        policy's own.

        An episode begins with the first call for its lane, and with the first after its last step. Returns [A] or
        [n, A] of the action space's dtype; where actions are discrete, an integer [] or integers [n]. Raises UsageError
        for observations of another shape or that are not finite, and where an episode is recorded in parts.
        """
        observations, single = self._checked_observations(observation)
        lanes = _checked_lanes(lanes, single, len(observations))
        rng = rng or self.rng
        observations = self._seen(observations)
        self._leave_unrecorded()
        self._begin_episodes(lanes, deterministic, rng)
        shape = (len(lanes), self._action_size)
        noise = np.zeros(shape, np.float32) if deterministic else self._actions.draw_noise(rng, shape)
        with torch.no_grad():
            actions, distributions, memories = self._drawn(observations, lanes, torch.from_numpy(noise))
        if (where := first_not_finite(actions)) is not None:
            raise UsageError("act", f"action{where}", TOO_FAR)
        self._acted = _Acted(single, lanes, observations, actions, distributions, memories)
        given = self.spaces.to_environment(actions.numpy())
        return given[0] if single else given

    def record(
        self,
        reward: ArrayLike,
        *,
        terminated: ArrayLike = False,
        truncated: ArrayLike = False,
        observation: ArrayLike | None = None,
    ) -> Any:
        """Record what came of the last `act`; whether the episode is over: a bool, or bool [n].

        reward, terminated, truncated: of each lane of the last `act`, as `step` of a Gymnasium environment returns
        them. An episode is also over after `horizon` steps. observation: what followed, [O] or [n, O]; of use only
        where `adapt` comes in the middle of an episode, whose value it is estimated from.

        Raises UsageError for values of another shape or that are not finite, and where nothing was acted.
        """
        acted = self._acted
        if acted is None:
            raise UsageError("record", expected="an act that is not recorded yet", got="none", remedy="act first")
        n = len(acted.lanes)
        rewards = _numbers("reward", reward, n, acted.single)
        ends, cuts = (
            _numbers(name, value, n, acted.single, or_one=True).astype(bool)
            for name, value in (("terminated", terminated), ("truncated", truncated))
        )
        following = None if observation is None else self._seen(self._checked_observations(observation, n)[0])
        for index in acted.lanes:
            if not self._lanes[index].recorded:
                raise UsageError(
                    "record",
                    "steps before this one were not recorded",
                    "record every step of an episode, and call start_episode where one begins without record",
                )
        self._acted = None
        over = np.zeros(n, bool)
        for row, index in enumerate(acted.lanes):
            lane = self._lanes[index]
            episode = lane.episode
            if not episode.rewards and not self._remembers:
                self._episodes.append(episode)
            episode.observations.append(acted.observations[row])
            episode.actions.append(acted.actions[row])
            episode.distributions.append(acted.distributions[row])
            episode.rewards.append(float(rewards[row]))
            episode.final = None if following is None else following[row]
            episode.terminated = bool(ends[row])
            full = len(episode.rewards) == self.horizon
            episode.truncated = bool(cuts[row]) or (full and not episode.terminated)
            lane.action, lane.reward, lane.memory = acted.actions[row], float(rewards[row]), acted.memories[row]
            lane.over = over[row] = episode.terminated or episode.truncated
        return bool(over[0]) if acted.single else over

    def start_episode(self, lanes: Sequence[int] | None = None) -> None:
        """Let the next `act` begin an episode: of some lanes, or of all when None.

        Needed only where `record` does not say that the episode before is over: it was given up, or is not recorded.
        """
        self._acted = None
        for lane in self._lanes if lanes is None else lanes:
            if lane in self._lanes:
                self._lanes[lane].over = True

    def _leave_unrecorded(self) -> None:
        """Forget a step that was acted and not recorded: no part of an episode that is."""
        for index in self._acted.lanes if self._acted is not None else ():
            lane = self._lanes[index]
            if lane.episode.rewards or self._remembers:
                why = "the policy remembers rewards" if self._remembers else "steps of this episode are recorded"
                raise UsageError(
                    "act",
                    expected=f"record(reward) first, since {why}",
                    got="an act that is not recorded",
                    remedy="record every step" + ("" if self._remembers else " of an episode, or none"),
                )
            lane.recorded = False
        self._acted = None

    def _begin_episodes(self, lanes: Sequence[int], deterministic: bool, rng: np.random.Generator) -> None:
        new = [lane for lane in lanes if lane not in self._lanes or self._lanes[lane].over]
        shape = (len(new), self._algorithm.episode_noise_size)
        noise = np.zeros(shape) if deterministic or 0 in shape else rng.standard_normal(shape)
        for lane, numbers in zip(new, torch.from_numpy(noise.astype(np.float32)), strict=True):
            before = self._lanes.get(lane)
            if before is None:
                self._lanes[lane] = _Lane(Episode(numbers), torch.zeros(self._action_size))
            else:
                self._lanes[lane] = _Lane(Episode(numbers), before.action, before.reward, before.memory)

    def _drawn(self, observations: Tensor, lanes: Sequence[int], noise: Tensor) -> tuple[Tensor, list[Any], list[Any]]:
        """Actions [n, A] that the noise selects, and for each lane what distributed its own, and what it carries on.

        Lanes that carry nothing on yet act apart from the others, since an actor is told so of all its lanes at once.
        """
        actions = torch.empty_like(noise)
        distributions: list[Any] = [None] * len(lanes)
        memories: list[Any] = [None] * len(lanes)
        is_new = [self._lanes[lane].memory is None for lane in lanes]
        for group in {*is_new}:
            rows = [row for row, new in enumerate(is_new) if new is group]
            own = [lanes[row] for row in rows]
            before = None if group else joined([self._lanes[lane].memory for lane in own])
            distribution, after = self._actor(self._step(observations[rows], own), before)
            actions[rows] = distribution.sample(noise[rows][None])[0]
            for place, row in enumerate(rows):
                distributions[row] = type(distribution)(*(_of_lane(value, place) for value in distribution))
                memories[row] = part(after, place)
        return actions, distributions, memories

    def _step(self, observations: Tensor, lanes: Sequence[int]) -> Step:
        """What the policy sees, of M = 1 task."""
        running = [self._lanes[lane] for lane in lanes]
        starts = [lane.recorded and not lane.episode.rewards for lane in running]
        return Step(
            observations[None],
            torch.stack([lane.action for lane in running])[None],
            torch.tensor([[lane.reward for lane in running]], dtype=torch.float32),
            torch.tensor([starts]),
            torch.stack([lane.episode.noise for lane in running])[None],
        )

    def _seen(self, observations: Tensor) -> Tensor:
        """Observations as the policy sees them."""
        return observations if self._scaling is None else self._scaling.normalised(observations)

    def _checked_observations(self, observation: ArrayLike, n: int | None = None) -> tuple[Tensor, bool]:
        """[n, O], and whether one was given as [O]. n: as many; any number when None."""
        size = self.spaces.observation_size
        try:
            array = np.array(observation, np.float32)  # a copy: environments write on in theirs
        except (TypeError, ValueError) as error:
            raise UsageError("observation", expected=f"numbers [{size}] or [n, {size}]", got=str(error)) from error
        single = array.ndim == 1
        array = array[None] if single else array
        if array.ndim != 2 or array.shape[1] != size or len(array) != (n or len(array)) or not len(array):
            got = list(array.shape[1:] if single else array.shape)
            raise UsageError("observation", expected=f"shape [{size}], or [{n or 'n'}, {size}]", got=f"{got}")
        if not np.isfinite(array).all():
            raise UsageError("observation", expected="finite numbers", got=str(array[~np.isfinite(array)][0]))
        return torch.from_numpy(array), single

    # Adapting.

    def adapt(self) -> None:
        """Adapt to the task: one inner step on the episodes that were recorded since the last one.

        An episode that is not over is cut, and what is left of it counts as another. Raises UsageError if no recorded
        episode is over, or if adapted parameters are not finite, in which case the policy is as it was.
        """
        if self._remembers:
            raise UsageError("adapt", f"{self.config.algorithm} adapts by remembering what is recorded", "leave it out")
        data = self._recorded()
        collections = [*self._collections, data]
        state = self._algorithm.adapt(self._meta, self._state, collections)
        for name, value in getattr(state, "params", {}).items():
            if (where := first_not_finite(value[0])) is not None:
                raise UsageError("adapt", f"adapted parameter {name}{where}", TOO_FAR)
        self._collections = collections
        self._go_on_from(state)

    def embedding(self) -> np.ndarray:
        """The embedding [H] of the task, by what the policy did before it adapted: that is, in its first rollouts.

        Raises UsageError for an algorithm that has none, and before an episode is over.
        """
        if "embed" not in self._algorithm.functions or self._remembers:
            raise UsageError("embedding", f"{self.config.algorithm} has no task embeddings")
        first = self._collections[0] if self._collections else self._recorded()
        return self._algorithm.embed(self._parameters, [first], None)["embedding"][0].numpy()  # type: ignore[attr-defined]

    def _recorded(self) -> Rollouts:
        """What was recorded since the last adaptation, with advantages."""
        if not any(episode.terminated or episode.truncated for episode in self._episodes):
            raise UsageError(
                "adapt",
                expected="a recorded episode that is over",
                got=f"{self.recorded_steps} steps of episodes that are not",
                remedy=f"record terminated=True or truncated=True at its last step, or {self.horizon} steps",
            )
        data = rollouts_of(self._episodes, self.horizon)
        rewards = data.rewards if self._scaling is None else data.rewards / self._scaling.reward_scale
        with torch.no_grad():
            data.advantages, data.value_targets = self._algorithm.advantages(self._state, data, rewards)
        return data

    # Files.

    def save(self, path: str | Path) -> None:
        """Write the policy, with what it has adapted to, into a file that `mmaml.load` reads.

        Steps that no `adapt` has learned from yet are left out. What lanes remember is kept, for their next episodes.
        Raises UsageError if the file cannot be written.
        """
        statistics = self._statistics.state_dict()
        lanes = [
            {"lane": index, "action": lane.action, "reward": lane.reward, "memory": packed(lane.memory)}
            for index, lane in self._lanes.items()
            if lane.memory is not None
        ]
        state = {
            "iteration": 0,
            "env_steps": 0,
            "seconds": 0.0,
            "parameters": self._algorithm.spec.unflatten(self._parameters),
            "algorithm": {},
            "config": self.config.to_dict(),
            "environment": self.spaces.record(),
            "adapted": {
                "horizon": self.horizon,
                "state": packed(self._state),
                "collections": [data.fields() for data in self._collections],
                "lanes": lanes,
            },
            **({"statistics": statistics} if statistics else {}),
        }
        with writing("path", Path(path)):
            make_folder(Path(path).parent)
            checkpoint.write_file(Path(path), state)

    def restore(self, adapted: Mapping[str, Any]) -> None:
        """Be adapted as the policy was of which `save` wrote this. Raises ValueError, LookupError, TypeError.

        Raises UsageError for another horizon: what the policy remembers has that many steps.
        """
        if adapted["collections"] and adapted["horizon"] != self.horizon:
            remedy = "leave it out, or adapt a policy that is loaded from the run"
            raise UsageError("horizon", expected=f"{adapted['horizon']}", got=f"{self.horizon}", remedy=remedy)
        state = unpacked(adapted["state"])
        self._collections = [Rollouts.from_fields(fields) for fields in adapted["collections"]]
        self._go_on_from(state)
        for lane in adapted["lanes"]:
            memory, none = unpacked(lane["memory"]), Episode(torch.zeros(self._algorithm.episode_noise_size))
            self._lanes[lane["lane"]] = _Lane(none, lane["action"], lane["reward"], memory, over=True)

    def module(self) -> torch.nn.Module:
        """The policy as it is now, as a torch module: observations [n, O] to actions in the environment's units.

        A second argument, noise [n, A], standard normal, or Gumbel where actions are discrete, draws actions; without
        it they are the most probable ones. Raises UsageError for a policy that has a memory.
        """
        return module_of(self._network())

    def export_torchscript(self, path: str | Path) -> None:
        """Write `module` as TorchScript, for `torch.jit.load` without this package. Raises UsageError."""
        content = io.BytesIO()
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of torch, in favour of newer ways
            torch.jit.save(torch.jit.script(self.module().requires_grad_(False)), content)
        _write(Path(path), content.getvalue())

    def export_onnx(self, path: str | Path, *, noise: bool = False) -> None:
        """Write `module` as ONNX: input "observation" [n, O], with `noise` also "noise" [n, A]; output "action".

        Raises UsageError, also if the package onnx is not installed.
        """
        _write(Path(path), onnx_file(self._network(), noise))

    def _network(self) -> Network:
        with torch.no_grad():
            params = self._algorithm.policy_params(self._state)
        if params is None:
            raise UsageError("export", f"a policy of {self.config.algorithm} has a memory, which cannot be exported")
        return network_of(params, self.spaces, self.config.hidden_nonlinearity, self._scaling)


def _write(path: Path, content: bytes) -> None:
    with writing("path", path):
        make_folder(path.parent)
        with atomic_file(path) as file:
            file.write(content)


def _of_lane(value: Tensor, lane: int) -> Tensor:
    """[1, n or 1, A] -> [1, 1, A]."""
    return value[:, lane : lane + 1] if value.shape[1] > 1 else value


def part(memory: Any, lane: int) -> Any:
    """What one lane carries on of what n lanes do: of tensors [1, n, …], in tuples or not, those [1, 1, …]."""
    if isinstance(memory, tuple):
        return tuple(part(item, lane) for item in memory)
    return None if memory is None else memory[:, lane : lane + 1]


def joined(memories: Sequence[Any]) -> Any:
    """What several lanes carry on, together: the reverse of `part`."""
    if isinstance(memories[0], tuple):
        return tuple(joined(items) for items in zip(*memories, strict=True))
    return None if memories[0] is None else torch.cat(list(memories), 1)


def _checked_lanes(lanes: Sequence[int] | None, single: bool, n: int) -> list[int]:
    lanes = list(range(n)) if lanes is None else [int(lane) for lane in lanes]
    if len(lanes) != n or len({*lanes}) != n:
        raise UsageError("lanes", expected=f"{n} different numbers, one an observation", got=str(lanes))
    return lanes


def _numbers(name: str, value: ArrayLike, n: int, single: bool, or_one: bool = False) -> np.ndarray:
    """[n], finite. or_one: one number stands for all."""
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(name, expected="a number" if single else f"numbers [{n}]", got=str(error)) from error
    if array.size == 1 and (single or or_one):
        array = np.full(n, array.item())
    if array.shape != (n,):
        expected = "a number" if single else f"shape [{n}], one for each lane of the last act"
        raise UsageError(name, expected=expected, got=f"shape {list(array.shape)}")
    if not np.isfinite(array).all():
        raise UsageError(name, expected="finite numbers", got=str(array[~np.isfinite(array)][0]))
    return array
