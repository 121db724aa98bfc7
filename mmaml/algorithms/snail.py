"""SNAIL: a simple neural attentive meta-learner (Mishra, Rohaninejad, Chen, Abbeel 2018).

    f_t = attention(TC(TC(x_t W + b)))                        `mmaml.policies.snail`
    π(·|f_t), V(f_t)                                          linear in f_t, or `mmaml.policies.readout`

Convolutions and attention look back over all steps of the trial so far, over the ends of its episodes. x, and how the
network is trained: `mmaml.algorithms.recurrent`.
"""

from __future__ import annotations

from torch import Tensor

from mmaml.algorithms.recurrent import NetworkPPO
from mmaml.algorithms.shared_keys import RECURRENT, numbers_of_attention, numbers_of_steps
from mmaml.config.declaration import Key
from mmaml.config.keys import Config
from mmaml.config.value_types import integer
from mmaml.policies.params import Params
from mmaml.policies.snail import SNAILNetwork

DECLARATION = RECURRENT.extended(
    keys={
        "filters": Key("Memory", 32, integer(1), "channels of the first layer, and of each convolution"),
        "attention_size": Key("Memory", 32, integer(1), "entries of a query, a key and a value"),
    },
    weights={
        "filters": lambda config: 8 * config.filters**2,
        "attention_size": lambda config: 3 * config.filters * config.attention_size,
    },
    kept={"attention_size": lambda config: numbers_of_steps(config, 2 * config.attention_size, config.lane_length)},
    computed={
        ("rollouts_per_meta_task", "max_path_length", "episodes_per_trial"): lambda config: numbers_of_attention(
            config, config.lane_length
        )
    },
)


class SNAIL(NetworkPPO):
    """A causal network, whose memory is the trial so far."""

    network: SNAILNetwork

    def build_memory(self, config: Config, inputs: int) -> tuple[dict[str, tuple[int, ...]], int]:
        self.network = SNAILNetwork("memory", inputs, config.lane_length, config.filters, config.attention_size)
        return self.network.shapes, self.network.features

    def unroll(self, params: Params, x: Tensor) -> Tensor:
        return self.network.unroll(params, x.permute(1, 2, 0, 3)).permute(2, 0, 1, 3)
