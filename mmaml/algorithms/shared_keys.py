"""Keys, and whole declarations, that several algorithms share. Loads no torch, as is needed to read a declaration."""

from __future__ import annotations

from mmaml.config.declaration import Condition, Declaration, Key
from mmaml.config.keys import Config
from mmaml.config.value_types import integer, number

# Of algorithms that keep nothing from one episode to the next.
ONE_EPISODE = Condition(
    "episodes_per_trial", lambda config: config.episodes_per_trial == 1, "1", "remembers nothing between episodes"
)
# Of inner steps, and of the KL at each: without effect where there are none.
INNER_STEP_KEYS = (
    *("num_inner_grad_steps", "inner_lr", "first_order"),
    *("init_inner_kl_penalty", "adaptive_inner_kl_penalty", "target_inner_step"),
)
CELL_SIZE = Key(
    "Memory",
    64,
    integer(1),
    "units of the GRU: of the policy's memory, or of the task encoder and its MLPs",
)
VF_LOSS_COEFF = Key("Value function", 0.5, number(0), "weight of the value function's loss, wherever π is trained")
ENTROPY_COEFF = Key("Value function", 0.0, number(0), "weight of the policy's entropy, wherever π is trained")
ENTROPY_ANNEAL = Key(
    "Value function",
    1.0,
    number(0, 1, open_low=True),
    "the weight of the entropy is multiplied by entropy_anneal^iteration",
)

# Of what is trained by PPO over whole trials (`mmaml.algorithms.recurrent.TrialPPO`).
TRIAL = Declaration(
    keys={"vf_loss_coeff": VF_LOSS_COEFF, "entropy_coeff": ENTROPY_COEFF, "entropy_anneal": ENTROPY_ANNEAL},
    conditions=[
        Condition("meta_update", lambda config: config.chosen_update != "trpo", '"ppo" or "vpg"', "has no trust region")
    ],
    without=["baseline", "positive_adv", *INNER_STEP_KEYS],
    credit="trial",
    default_update="ppo",
    reads_rewards=lambda config: True,
)
READOUT_SIZE = Key(
    "Memory",
    0,
    integer(0),
    "units of a layer between the memory, with the step's input, and policy and value; 0: linear in the memory",
)


def _readout_weights(config: Config) -> int:
    """Of a step's input (`TrialPPO.inputs`) alone: how many features the memory has depends on the algorithm."""
    assert config.env_spec is not None
    return config.readout_size * (config.env_spec.observation_size + config.env_spec.action_size + 2)


# Of those whose policy reads the features of a memory (`mmaml.algorithms.recurrent.RecurrentPPO`).
RECURRENT = TRIAL.extended(
    keys={"readout_size": READOUT_SIZE},
    weights={"readout_size": _readout_weights},
    without=["hidden_sizes", "hidden_nonlinearity"],
)


def numbers_of_steps(config: Config, count: int, steps: int) -> int:
    """`count` numbers of each of a lane's last steps, for all lanes: what a policy that looks back keeps to act."""
    return count * config.meta_batch_size * config.rollouts_per_meta_task * steps


def numbers_of_attention(config: Config, steps: int) -> int:
    """What a lane's last steps attend to, each to each, for the lanes of a task."""
    return config.rollouts_per_meta_task * steps**2
