"""What must be known of a task family to act, and to adapt: what a policy reads and gives, in which units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete

from mmaml.envs.spaces import check_spaces, to_environment, within
from mmaml.envs.spec import EnvSpec


@dataclass(frozen=True)
class PolicySpaces:
    """Sizes and units of observations and actions.

    observation_size: O. actions: the action space of one lane. scale: s, the policy's actions in [-s, s] being the
    range between the bounds (`mmaml.envs.spaces.rescale_actions`); None: they are in the environment's units already.
    finite_horizon: the family's (`mmaml.envs.base.TaskVectorEnv`); True where a checkpoint does not say.
    """

    observation_size: int
    actions: Box | Discrete
    scale: float | None
    finite_horizon: bool = True

    @staticmethod
    def of_spec(spec: EnvSpec, normalization_scale: str | float | None) -> PolicySpaces:
        """Those of a task family. normalization_scale: the configuration's."""
        scale = spec.action_scale(normalization_scale)
        return PolicySpaces(spec.observation_size, spec.action_space, scale, spec.finite_horizon)

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> PolicySpaces:
        """What `record` gave. Raises KeyError, TypeError or ValueError for something else."""
        actions: Box | Discrete
        if record["actions"] == "discrete":
            actions = Discrete(int(record["n"]), start=int(record["start"]))
        else:
            dtype = np.dtype(record["dtype"])
            low, high = (np.array(record[bound], dtype) for bound in ("low", "high"))
            actions = Box(low, high, dtype=dtype.type)
        scale = record["scale"]
        finite_horizon = bool(record.get("finite_horizon", True))
        return PolicySpaces(
            int(record["observation_size"]), actions, None if scale is None else float(scale), finite_horizon
        )

    def record(self) -> dict[str, Any]:
        """The same as plain values, for a file."""
        actions: dict[str, Any]
        if isinstance(self.actions, Discrete):
            actions = {"actions": "discrete", "n": int(self.actions.n), "start": int(self.actions.start)}
        else:
            bounds = {"low": self.actions.low.tolist(), "high": self.actions.high.tolist()}
            actions = {"actions": "box", "dtype": np.dtype(self.actions.dtype).name, **bounds}
        common = {"observation_size": self.observation_size, "finite_horizon": self.finite_horizon}
        return {**common, "scale": self.scale, **actions}

    def check(self) -> None:
        """Raise ValueError for spaces of another kind, and for a scale that cannot be applied to them."""
        check_spaces("the policy", Box(-1, 1, (self.observation_size,)), self.actions)
        to_environment(np.zeros((1, 1), np.float32), self.actions, self.scale)

    def to_environment(self, actions: np.ndarray) -> np.ndarray:
        """A policy's actions, float32 [n, A], in the environment's units and within its bounds.

        Box: [n, A] of its dtype. Discrete: integers [n].
        """
        return within(to_environment(actions, self.actions, self.scale), self.actions)
