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
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from numpy.typing import ArrayLike
from torch import Tensor

from mmaml.algorithms import make_algorithm
from mmaml.config.keys import Config
from mmaml.errors import UsageError
from mmaml.paths import located
from mmaml.policies.distributions import distribution_over
from mmaml.policies.params import Params
from mmaml.sampling.acting import Actor
from mmaml.sampling.episodes import rollouts_of
from mmaml.sampling.finite import first_not_finite
from mmaml.sampling.normalisation import RunningStatistics, Scaling
from mmaml.sampling.policy_spaces import PolicySpaces
from mmaml.sampling.rollouts import Rollouts
from mmaml.storage import checkpoint
from mmaml.storage.compatibility import check_parameters
from mmaml.storage.files import atomic_file, make_folder, writing
from mmaml.storage.packing import packed, unpacked
from mmaml.trained_policy.arguments import checked_lanes, checked_numbers, checked_observations
from mmaml.trained_policy.export import Network, module_of, network_of, onnx_file
from mmaml.trained_policy.lanes import TOO_FAR, Lanes, Sizes

Memory = Sequence[Mapping[str, Any]]  # of each lane that has one
NO_TASK = -1  # identity of a task that is not one of a finite set of training tasks


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
        actions, action_size = distribution_over(spaces.actions)
        self._algorithm = make_algorithm(config, spaces.observation_size, action_size, actions)
        self._sizes = Sizes(actions, action_size, self._algorithm.episode_noise_size, horizon, self.remembers)
        check_parameters(parameters, origin, self._algorithm.spec.shapes)
        self._parameters = self._algorithm.spec.flatten(parameters)
        self._meta = {name: value[None] for name, value in self._algorithm.spec.unflatten(self._parameters).items()}
        self.reset_task()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Of a policy that was pickled or copied: how its lanes act is a function, which is made anew."""
        vars(self).update(state)
        self._lanes.actor = self._actor()

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
    def remembers(self) -> bool:
        """Whether it adapts by remembering, and so has no use for `adapt`."""
        return self._algorithm.credit == "trial"

    @property
    def recorded_steps(self) -> int:
        """How many steps the next `adapt` learns from."""
        return sum(len(episode.rewards) for episode in self._lanes.episodes)

    def reset_task(self) -> None:
        """Forget the task: act as training left the policy, for a task that is new to it."""
        self._collections: list[Rollouts] = []
        self._go_on_from(self._algorithm.begin(self._meta, torch.tensor([NO_TASK])))

    def memory(self) -> Memory:
        """What it remembers in each lane: nothing where it does not adapt by remembering. For `recall`."""
        return tuple(self._lanes.memories())

    def recall(self, memory: Memory, lanes: Sequence[int] | None = None) -> None:
        """Remember what it did when `memory` gave it, in some lanes, or in all when None; each begins an episode.

        So several episodes can go on from the same memory, of the task that it is of.
        """
        self._lanes.remember([lane for lane in memory if lanes is None or lane["lane"] in lanes])

    def _go_on_from(self, state: Any) -> None:
        """Act in another state of the task, with nothing recorded yet."""
        self._state = state
        self._lanes = Lanes(self._actor(), self._sizes)
        self._one_was_given = True  # to the last `act`: an observation [O], not [n, O]

    def _actor(self) -> Actor:
        with torch.no_grad():
            return self._algorithm.actor(self._state)

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
        observations, single = checked_observations(observation, self.spaces.observation_size)
        lanes = checked_lanes(lanes, len(observations))
        actions = self._lanes.act(self._seen(observations), lanes, deterministic, rng or self.rng)
        self._one_was_given = single
        given = self.spaces.to_environment(actions)
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
        them. An episode is also over, and truncated, after `horizon` steps. observation: what followed, [O] or [n, O];
        of use where `adapt` comes in the middle of an episode, and where one is truncated, unless the task family has a
        finite horizon: the value of the steps to come is estimated from it, or else from the last observation.

        Raises UsageError for values of another shape or that are not finite, and where nothing was acted.
        """
        n, single = len(self._lanes.acted), self._one_was_given
        if not n:
            raise UsageError("record", expected="an act that is not recorded yet", got="none", remedy="act first")
        rewards = checked_numbers("reward", reward, n, single)
        ends, cuts = (
            checked_numbers(name, value, n, single, or_one=True).astype(bool)
            for name, value in (("terminated", terminated), ("truncated", truncated))
        )
        following = None
        if observation is not None:
            following = self._seen(checked_observations(observation, self.spaces.observation_size, n)[0])
        over = self._lanes.record(rewards, ends, cuts, following)
        return bool(over[0]) if single else over

    def start_episode(self, lanes: Sequence[int] | None = None) -> None:
        """Let the next `act` begin an episode: of some lanes, or of all when None.

        Needed only where `record` does not say that the episode before is over: it was given up, or is not recorded.
        """
        self._lanes.start_episode(lanes)

    def _seen(self, observations: Tensor) -> Tensor:
        """Observations as the policy sees them."""
        return observations.float() if self._scaling is None else self._scaling.normalised(observations)

    # Adapting.

    def adapt(self) -> None:
        """Adapt to the task: one inner step on the episodes that were recorded since the last one.

        An episode that is not over is cut, and what is left of it counts as another. Raises UsageError if no recorded
        episode is over, or if adapted parameters are not finite, in which case the policy is as it was.
        """
        if self.remembers:
            raise UsageError("adapt", f"{self.config.algorithm} adapts by remembering what is recorded", "leave it out")
        if not self.config.declaration.adapts:
            raise UsageError("adapt", f"{self.config.algorithm} does not adapt to a task", "leave it out")
        data = self._recorded("adapt")
        collections = [*self._collections, data]
        state = self._algorithm.adapt(self._meta, self._state, collections)
        for name, value in getattr(state, "params", {}).items():
            if (where := first_not_finite(value[0])) is not None:
                raise UsageError("adapt", f"adapted parameter {name}{where}", TOO_FAR)
        self._collections = collections
        self._go_on_from(state)

    def embedding(self) -> np.ndarray:
        """The embedding [H] of the task, by what the policy did before it adapted: that is, in its first rollouts.

        Raises UsageError for an algorithm that has none or adapts by remembering, and before an episode is over.
        """
        if "embed" not in self._algorithm.functions:
            raise UsageError("embedding", f"{self.config.algorithm} has no task embeddings")
        if self.remembers:
            problem = f"{self.config.algorithm} embeds a whole trial, but a policy keeps only its memory of it"
            raise UsageError("embedding", problem, 'train with "te_save_path", which writes those of held-out tasks')
        first = self._collections[0] if self._collections else self._recorded("embedding")
        return self._algorithm.embed(self._parameters, [first], None)["embedding"][0].numpy()  # type: ignore[attr-defined]

    def _recorded(self, argument: str) -> Rollouts:
        """What was recorded since the last adaptation, with advantages. Raises UsageError, which names `argument`."""
        if not any(episode.terminated or episode.truncated for episode in self._lanes.episodes):
            raise UsageError(
                argument,
                expected="a recorded episode that is over",
                got=f"{self.recorded_steps} steps of episodes that are not",
                remedy=f"record terminated=True or truncated=True at its last step, or {self.horizon} steps",
            )
        data = rollouts_of(self._lanes.episodes, self.horizon, self.spaces.finite_horizon)
        self._algorithm.estimate_advantages(self._state, data, self._scaling)
        return data

    # Files.

    def save(self, path: str | Path) -> None:
        """Write the policy, with what it has adapted to, into a file that `mmaml.load` reads.

        Steps that no `adapt` has learned from yet are left out. What lanes remember is kept, for their next episodes.
        Raises UsageError if the file cannot be written.
        """
        statistics = self._statistics.state_dict()
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
                "lanes": self._lanes.memories(),
            },
            **({"statistics": statistics} if statistics else {}),
        }
        file = Path(located(path, "path"))
        with writing("path", file):
            make_folder(file.parent)
            checkpoint.write_file(file, state)

    def restore(self, adapted: Mapping[str, Any]) -> None:
        """Continue from what `save` wrote as "adapted".

        Raises UsageError for another horizon, since what was adapted from has that many steps; for content that `save`
        has not written, AttributeError, LookupError, RuntimeError, StopIteration, TypeError or ValueError.
        """
        if adapted["collections"] and adapted["horizon"] != self.horizon:
            remedy = "leave it out, or adapt a policy that is loaded from the run"
            raise UsageError("horizon", expected=f"{adapted['horizon']}", got=f"{self.horizon}", remedy=remedy)
        state = unpacked(adapted["state"])
        self._collections = [Rollouts.from_fields(fields) for fields in adapted["collections"]]
        self._go_on_from(state)
        self._lanes.remember(adapted["lanes"])

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
        _write(Path(located(path, "path")), content.getvalue())

    def export_onnx(self, path: str | Path, *, noise: bool = False) -> None:
        """Write `module` as ONNX: input "observation" [n, O], with `noise` also "noise" [n, A]; output "action".

        Raises UsageError, also if the package onnx is not installed.
        """
        _write(Path(located(path, "path")), onnx_file(self._network(), noise))

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
