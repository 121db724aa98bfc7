"""EPN: episodic planning network (Ritter, Faulkner, Sartran, Santoro, Botvinick, Raposo 2021).

    f_t = plan({(o_{s-1}, a_{s-1}, r_{s-1}, d_s, o_s), s ≤ t}, o_t)      `mmaml.policies.epn`
    π(·|f_t), V(f_t)                                                     linear in f_t, or `mmaml.policies.readout`

The memory is the trial's transitions so far, over the ends of its episodes, or the last `memory_length` of them. The
network plans over them: it passes them several times through one block of self-attention. x, and how it is trained:
`mmaml.algorithms.recurrent`.
"""

from __future__ import annotations

from mmaml.algorithms.recurrent import NetworkPPO
from mmaml.algorithms.shared_keys import RECURRENT, numbers_of_attention, numbers_of_steps
from mmaml.config.declaration import Key
from mmaml.config.keys import Config
from mmaml.config.value_types import integer, optional
from mmaml.policies.distributions import Distribution
from mmaml.policies.epn import PlanningNetwork


def _kept(config: Config, steps: int) -> int:
    return numbers_of_steps(config, 3 * config.memory_embedding_size, steps)


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
            "how many of the last transitions are remembered, in longer trials than in training too; null: as many as "
            "a trial has in training",
        ),
        "planning_iterations": Key("Memory", 2, integer(1), "how often the memory passes through the planning block"),
    },
    weights={"memory_embedding_size": lambda config: 13 * (4 * config.memory_embedding_size) ** 2},
    kept={
        "memory_embedding_size": lambda config: 0 if config.memory_length else _kept(config, config.lane_length),
        "memory_length": lambda config: _kept(config, config.memory_length or 0),
    },
    computed={
        ("rollouts_per_meta_task", "max_path_length", "episodes_per_trial"): lambda config: (
            0 if config.memory_length else numbers_of_attention(config, config.lane_length)
        ),
        ("rollouts_per_meta_task", "memory_length"): lambda config: numbers_of_attention(
            config, min(config.memory_length or 0, config.lane_length)
        ),
    },
)


class EPN(NetworkPPO):
    """A network that plans over the transitions of the trial so far, or the last of them."""

    network: PlanningNetwork

    def __init__(self, config: Config, observation_size: int, action_size: int, actions: type[Distribution]) -> None:
        self.observation_size = observation_size
        super().__init__(config, observation_size, action_size, actions)

    def build_memory(self, config: Config, inputs: int) -> tuple[dict[str, tuple[int, ...]], int]:
        sizes = config.memory_length or config.lane_length, config.memory_embedding_size, config.planning_iterations
        self.network = PlanningNetwork("memory", self.observation_size, inputs, *sizes)
        return self.network.shapes, self.network.features
