"""EPN: episodic planning network (Ritter, Faulkner, Sartran, Santoro, Botvinick, Raposo 2021).

    f_t = plan({(o_{s-1}, a_{s-1}, r_{s-1}, d_s, o_s), s ≤ t}, o_t)      `mmaml.policies.epn`
    π(·|f_t), V(f_t)                                                     linear in f_t, or `mmaml.policies.readout`

The memory is the trial's transitions so far, over the ends of its episodes, or the last `memory_length` of them. The
network plans over them: it passes them several times through one block of self-attention. x, and how it is trained:
`mmaml.algorithms.recurrent`.
"""

from __future__ import annotations

from mmaml.algorithms.recurrent import NetworkPPO
from mmaml.algorithms.shared_keys import RECURRENT
from mmaml.config.declaration import Condition, Key
from mmaml.config.keys import Config
from mmaml.config.value_types import integer, optional
from mmaml.policies.distributions import Distribution
from mmaml.policies.epn import PlanningNetwork


def _length(config: Config) -> int:
    """How many transitions a lane remembers."""
    return config.memory_length or config.lane_length


def _transitions_of_a_task(config: Config) -> int:
    return config.rollouts_per_meta_task * _length(config)


DECLARATION = RECURRENT.extended(
    keys={
        "memory_embedding_size": Key(
            "Memory",
            16,
            integer(1),
            "entries of an embedded state, action or goal; a row that is planned over has four times as many",
        ),
        "memory_length": Key(
            "Memory",
            None,
            optional(integer(1)),
            "how many of the last transitions are remembered and planned over; null: those of a trial",
        ),
        "planning_iterations": Key("Memory", 2, integer(1), "how often the memory passes through the planning block"),
    },
    weights={"memory_embedding_size": lambda config: 13 * (4 * config.memory_embedding_size) ** 2},
    kept={
        "memory_embedding_size": lambda config: (
            3 * config.memory_embedding_size * config.meta_batch_size * _transitions_of_a_task(config)
        )
    },
    computed={
        ("rollouts_per_meta_task", "max_path_length", "episodes_per_trial", "memory_length"): lambda config: (
            _transitions_of_a_task(config) * _length(config)
        )
    },
    conditions=[
        Condition(
            "memory_length",
            lambda config: _length(config) <= config.lane_length,
            "null or at most the steps of a trial, max_path_length · episodes_per_trial,",
            "remembers those of its trial",
        )
    ],
)


class EPN(NetworkPPO):
    """A network that plans over the transitions of the trial so far."""

    network: PlanningNetwork

    def __init__(self, config: Config, observation_size: int, action_size: int, actions: type[Distribution]) -> None:
        self.observation_size = observation_size
        super().__init__(config, observation_size, action_size, actions)

    def build_memory(self, config: Config, inputs: int) -> tuple[dict[str, tuple[int, ...]], int]:
        sizes = _length(config), config.memory_embedding_size, config.planning_iterations
        self.network = PlanningNetwork("memory", self.observation_size, inputs, *sizes)
        return self.network.shapes, self.network.features
