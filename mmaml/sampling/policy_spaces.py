"""What a policy reads and gives, in the units of its environment: what must be known of a task family to act."""

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
    """

    observation_size: int
    actions: Box | Discrete
    scale: float | None

    @staticmethod
    def of_spec(spec: EnvSpec, normalization_scale: str | float | None) -> PolicySpaces:
        """Those of a task family. normalization_scale: the configuration's."""
        return PolicySpaces(spec.observation_size, spec.action_space, spec.action_scale(normalization_scale))

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
        return PolicySpaces(int(record["observation_size"]), actions, None if scale is None else float(scale))

    def record(self) -> dict[str, Any]:
        """The same as plain values, for a file."""
        actions: dict[str, Any]
        if isinstance(self.actions, Discrete):
            actions = {"actions": "discrete", "n": int(self.actions.n), "start": int(self.actions.start)}
        else:
            bounds = {"low": self.actions.low.tolist(), "high": self.actions.high.tolist()}
            actions = {"actions": "box", "dtype": np.dtype(self.actions.dtype).name, **bounds}
        return {"observation_size": self.observation_size, "scale": self.scale, **actions}

    def check(self) -> None:
        """Raise ValueError for spaces of another kind, and for a scale that cannot be applied to them."""
        check_spaces("the policy", Box(-1, 1, (self.observation_size,)), self.actions)
        to_environment(np.zeros((1, 1), np.float32), self.actions, self.scale)

    def to_environment(self, actions: np.ndarray) -> np.ndarray:
        """A policy's actions, float32 [n, A], in the environment's units and within its bounds.

        Box: [n, A] of its dtype. Discrete: integers [n].
        """
        return within(to_environment(actions, self.actions, self.scale), self.actions)
