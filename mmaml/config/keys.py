"""The keys of the configuration that are common to all algorithms: each with its type, range, default and meaning.

Validation, the command line and the table in docs/configuration.md all come from the fields of `Config`, and from what
each algorithm declares of its own in its file (`mmaml.config.declaration`).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mmaml.config.algorithms import ALGORITHMS, DEFAULT_ALGORITHM
from mmaml.config.declaration import Declaration, Key
from mmaml.config.declaration_file import declaration_of
from mmaml.config.value_types import (
    DEVICE,
    FLAG,
    MAX_SECONDS,
    MAX_STEPS,
    OBJECT,
    PATH,
    RATES,
    SCALE,
    SIZES,
    TEXT,
    THREADS,
    Kind,
    choice,
    integer,
    number,
    optional,
)

if TYPE_CHECKING:
    from mmaml.envs.spec import EnvSpec

BASELINES = ("LinearFeatureBaseline", "LinearTimeBaseline", "ZeroBaseline")
LEGACY = "legacy"
ADAM = ("ppo", "vpg")
ALGORITHM = Kind(
    f'{choice(*ALGORITHMS).expected}, or "package.module:ClassName" of your own',
    lambda v: isinstance(v, str) and (v in ALGORITHMS or (":" in v and TEXT.accepts(v))),
)


def _key(
    group: str, default: Any, kind: Kind, text: str, updates: tuple[str, ...] = (), resumable: bool = False
) -> Any:
    """A field. See `Key`."""
    return field(default=default, metadata={"key": Key(group, default, kind, text, updates, resumable)})


@dataclass(frozen=True)
class Config:
    """A run's whole configuration, which `mmaml.config.loading.build_config` makes.

    The keys that are common to all algorithms are fields; those of the algorithm that runs are in `own`, and attributes
    as well: `config.learning_rate`, `config.latent_size`. What they mean: docs/configuration.md.
    env_spec: what is known of the task family, None where nobody has asked.
    """

    algorithm: str = _key(
        "Experiment",
        DEFAULT_ALGORITHM,
        ALGORITHM,
        'what trains: by name, or "package.module:ClassName" of your own; by default the run script\'s own',
    )
    env: str = _key(
        "Experiment",
        "MetaPointEnvMomentumModes",
        TEXT,
        'the task family: a registered name, or "package.module:ClassName" of your own environment',
    )
    env_kwargs: dict[str, Any] = field(
        default_factory=dict,
        metadata={
            "key": Key(
                "Experiment", {}, OBJECT, "arguments of the family's constructor, such as centers, noise, reward_type"
            )
        },
    )
    seed: int = _key("Experiment", 1, integer(0), "root of every random number of the run")
    n_itr: int = _key("Experiment", 1001, integer(1), "iterations of meta-training", resumable=True)

    meta_batch_size: int = _key("Sampling", 40, integer(1), "M, tasks of an iteration")
    rollouts_per_meta_task: int = _key("Sampling", 20, integer(1), "N, rollouts (lanes) of each task in a collection")
    max_path_length: int = _key("Sampling", 100, integer(1), "H, horizon of an episode in time steps")
    episodes_per_trial: int = _key(
        "Sampling",
        1,
        integer(1, MAX_STEPS),
        "E, episodes of one task that follow each other in a lane, of T = E·H time steps; a policy with a memory keeps "
        "it from one to the next",
    )
    num_train_tasks: int | None = _key(
        "Sampling",
        None,
        optional(integer(1)),
        "train on a fixed set of this many tasks, drawn once; null: draw new tasks in each iteration",
    )
    collect: str = _key(
        "Sampling",
        "lanes",
        choice("lanes", "episodes"),
        '"lanes": an episode that terminates is followed by another in its lane, N·T real steps; '
        '"episodes": exactly N episodes, the rest of a lane is padding',
    )
    normalization_scale: str | float | None = _key(
        "Sampling",
        "family",
        SCALE,
        "s: actions in [-s, s] are rescaled to the environment's bounds; null: clipped only; "
        '"family": the scale of the family\'s published experiments',
    )
    normalize_observations: bool = _key(
        "Sampling",
        False,
        FLAG,
        "scale observations to mean 0 and standard deviation 1 by running statistics, which are constant within an "
        "iteration, and clip them to ±10; computed in float64 from what the environment returns",
    )
    normalize_rewards: bool = _key(
        "Sampling",
        False,
        FLAG,
        "divide the rewards that are learned from by the running standard deviation of discounted returns, which is "
        "constant within an iteration",
    )
    parallel: bool = _key(
        "Sampling", True, FLAG, "relaunch under mpirun on all cores; false: one process", resumable=True
    )
    master_samples: bool = _key(
        "Sampling",
        True,
        FLAG,
        "rank 0 samples a share of the tasks too; false: it only updates",
        resumable=True,
    )

    physics_threads: int | str = _key(
        "Sampling",
        "auto",
        THREADS,
        'with how many threads a rank steps the lanes of a MuJoCo family; "auto": with the cores that are left over if '
        "each rank has one task, else with one",
        resumable=True,
    )

    baseline: str = _key(
        "Advantages",
        "LinearFeatureBaseline",
        choice(*BASELINES),
        "value baseline, fitted per task",
    )
    discount: float = _key("Advantages", 0.99, number(0, 1), "γ")
    gae_lambda: float = _key("Advantages", 1.0, number(0, 1), "λ of generalised advantage estimation")
    normalize_adv: bool = _key(
        "Advantages",
        True,
        FLAG,
        "scale advantages to mean 0 and standard deviation 1 per task; over the meta-batch if the policy has a memory",
    )
    positive_adv: bool = _key("Advantages", False, FLAG, "shift advantages to be positive, after normalising")

    hidden_sizes: tuple[int, ...] = _key("Policy", (64, 64), SIZES, "units of the policy's hidden layers")
    hidden_nonlinearity: str = _key("Policy", "tanh", choice("tanh", "relu"), "nonlinearity of the hidden layers")
    learn_std: bool = _key(
        "Policy", True, FLAG, "adapt and meta-learn the log-std; false: it stays 0 (std 1); discrete actions have none"
    )

    num_inner_grad_steps: int = _key("Adaptation", 1, integer(1, MAX_STEPS), "K, inner steps")
    inner_lr: float | tuple[float, ...] = _key(
        "Adaptation",
        0.1,
        RATES,
        "α, step size of an inner step; a list: of the first, the second, …, the last of all later",
    )
    first_order: bool = _key(
        "Adaptation", False, FLAG, "leave the derivative of the inner gradient out of the meta-gradient"
    )

    meta_update: str = _key(
        "Meta-update",
        "auto",
        choice("auto", "ppo", "trpo", "vpg"),
        '"ppo": epochs of Adam on a clipped objective; "trpo": a step of natural gradient within a trust region; '
        '"vpg": one step of Adam on the policy gradient; "auto": the algorithm\'s own',
    )
    learning_rate: float = _key("Meta-update", 1e-3, number(0, open_low=True), "Adam's step size", updates=ADAM)
    learning_rate_anneal: float = _key(
        "Meta-update",
        1.0,
        number(0, 1, open_low=True),
        "the step size is multiplied by learning_rate_anneal^iteration",
        updates=ADAM,
    )
    num_promp_steps: int = _key(
        "Meta-update", 5, integer(1, MAX_STEPS), "epochs on the data of an iteration", updates=("ppo",)
    )
    max_grad_norm: float | None = _key(
        "Meta-update",
        None,
        optional(number(0, open_low=True)),
        "largest norm of the meta-gradient, to which a longer one is scaled down; null: no limit",
        updates=ADAM,
    )
    max_outer_kl: float | None = _key(
        "Meta-update",
        None,
        optional(number(0, open_low=True)),
        "largest KL(π_old,K ‖ π_K) of an update; a larger one is halved until it keeps to that; null: no limit",
        updates=ADAM,
    )
    num_minibatches: int = _key("Meta-update", 1, integer(1), "minibatches (of tasks) an epoch", updates=ADAM)
    clip_eps: float = _key(
        "Meta-update", 0.3, number(0, open_low=True), "ε of the clipped likelihood ratio", updates=("ppo",)
    )
    clip_outer: bool = _key(
        "Meta-update",
        True,
        FLAG,
        "clip the ratio of the meta-objective; false: plain surrogate",
        updates=("ppo",),
    )
    anneal_factor: float = _key(
        "Meta-update",
        1.0,
        number(0, 1, open_low=True),
        "ε is multiplied by anneal_factor^iteration",
        updates=("ppo",),
    )
    init_inner_kl_penalty: float = _key(
        "Meta-update", 5e-4, number(0), "η_k at the start: weight of KL(π_old,k ‖ π_k)", updates=("ppo",)
    )
    adaptive_inner_kl_penalty: bool = _key(
        "Meta-update",
        False,
        FLAG,
        "halve or double each η_k once an iteration, towards target_inner_step",
        updates=("ppo",),
    )
    target_inner_step: float = _key("Meta-update", 0.01, number(0), "target of the adaptive inner KL", updates=("ppo",))
    init_outer_kl_penalty: float = _key(
        "Meta-update", 0.0, number(0), "η_out at the start: weight of KL(π_old,K ‖ π_K)", updates=("ppo",)
    )
    adaptive_outer_kl_penalty: bool = _key("Meta-update", False, FLAG, "adapt η_out by the same rule", updates=("ppo",))
    target_outer_step: float = _key("Meta-update", 0.01, number(0), "target of the adaptive outer KL", updates=("ppo",))
    max_kl: float = _key(
        "Meta-update", 0.01, number(0, open_low=True), "δ, KL that bounds a step of the trust region", updates=("trpo",)
    )
    cg_iters: int = _key("Meta-update", 10, integer(1, MAX_STEPS), "conjugate gradient steps", updates=("trpo",))
    fisher_rollouts: int | None = _key(
        "Meta-update",
        None,
        optional(integer(1)),
        "how many rollouts of each collection products with the Fisher matrix use; null: all",
        updates=("trpo",),
    )
    cg_damping: float = _key(
        "Meta-update", 1e-5, number(0), "added to the diagonal of the Fisher matrix", updates=("trpo",)
    )
    ls_max_steps: int = _key(
        "Meta-update", 15, integer(1, MAX_STEPS), "how many step lengths the line search tries", updates=("trpo",)
    )
    ls_backtrack_ratio: float = _key(
        "Meta-update",
        0.8,
        number(0, 1, open_low=True, open_high=True),
        "ratio of each step length to the one tried before",
        updates=("trpo",),
    )
    meta_gradient: str = _key(
        "Meta-update",
        "auto",
        choice("auto", "master", "ranks"),
        'where the meta-gradient is computed; "auto": on the master if it has a GPU, else on the ranks',
        resumable=True,
    )
    device: str = _key(
        "Meta-update", "auto", DEVICE, 'the master\'s device; "auto": a GPU if there is one', resumable=True
    )

    eval_interval: int = _key(
        "Evaluation",
        0,
        integer(0),
        "evaluate on held-out tasks every this many iterations; 0: never",
        resumable=True,
    )
    eval_num_tasks: int = _key("Evaluation", 40, integer(1), "held-out tasks of such an evaluation", resumable=True)

    dump_path: str | None = _key(
        "Output",
        None,
        optional(PATH),
        "directory of the run; null: a new one in data/, named by algorithm, or run script, env and time",
        resumable=True,
    )
    restore_path: str | None = _key(
        "Output", None, optional(PATH), "checkpoint, or directory of a run, to continue from", resumable=True
    )
    save_steps: int = _key("Output", 50, integer(1), "write a checkpoint every this many iterations", resumable=True)
    max_checkpoints_to_keep: int = _key(
        "Output", 20, integer(1), "how many of the newest checkpoints are kept", resumable=True
    )
    keep_checkpoint_every_n_hours: float = _key(
        "Output",
        1.0,
        number(0),
        "also keep one checkpoint for every this many hours; 0: no others",
        resumable=True,
    )
    log_grad_norm: bool = _key("Output", False, FLAG, "log the norm of the meta-gradient and its parts", resumable=True)
    te_save_path: str | None = _key(
        "Output",
        None,
        optional(PATH),
        "file (.npz) for task embeddings at the end of the run",
        resumable=True,
    )
    num_embeddings: int = _key("Output", 100, integer(1), "how many tasks' embeddings are written", resumable=True)

    rank_timeout: float = _key(
        "Reliability",
        600.0,
        number(0, MAX_SECONDS, open_low=True),
        "seconds without an answer after which a rank counts as lost, from when the master has nothing left to do "
        'itself; with "master_samples": false it has to be more than any phase takes; a rank exits if it hears nothing '
        "from the master for 5 times as long",
        resumable=True,
    )
    shutdown_seconds: float = _key(
        "Reliability",
        60.0,
        number(1, MAX_SECONDS),
        "seconds after SIGTERM or SIGINT within which the iteration is finished or abandoned and a checkpoint written; "
        "a process that needs longer exits without one, with exit code 1 (under our mpirun 143 or 130)",
        resumable=True,
    )
    resume: str = _key(
        "Reliability",
        "never",
        choice("never", "auto"),
        '"auto": continue from the newest valid checkpoint in dump_path, if there is one',
        resumable=True,
    )
    max_failed_saves: int = _key(
        "Reliability",
        3,
        integer(1),
        "the run stops after this many checkpoints in a row that could not be written",
        resumable=True,
    )
    max_bad_updates: int = _key(
        "Reliability",
        3,
        integer(1),
        "the run stops after this many updates in a row that were skipped because of NaN or infinity",
        resumable=True,
    )
    max_failed_tasks: int = _key(
        "Reliability",
        10,
        integer(1),
        "the run stops after this many tasks, over the whole run, that were dropped because their environment raised",
        resumable=True,
    )

    step_size: float | None = _key(LEGACY, None, optional(number()), "accepted for older files; has no effect")
    exploration: bool | None = _key(LEGACY, None, optional(FLAG), "accepted for older files; has no effect")

    own: Mapping[str, Any] = field(default_factory=dict)
    env_spec: EnvSpec | None = field(default=None, repr=False, compare=False)

    def __getattr__(self, name: str) -> Any:
        """A key of the algorithm's own."""
        own = self.__dict__.get("own", {})  # which is not there yet while a copy is made
        if name not in own:
            raise AttributeError(f"the configuration has no key '{name}'")
        return own[name]

    @property
    def declaration(self) -> Declaration:
        """What the algorithm declares."""
        return declaration_of(self.algorithm)

    @property
    def chosen_update(self) -> str:
        """The meta-update: `meta_update`, or the algorithm's own for "auto"; "" if the algorithm ignores the key."""
        default = self.declaration.default_update
        return default if self.meta_update == "auto" or not default else self.meta_update

    @property
    def stages(self) -> int:
        """How many stages of learning a task an iteration has: collections, or the episodes of a trial."""
        return self.declaration.stages(self)

    @property
    def lane_length(self) -> int:
        """T = E·H, time steps of a lane: its episodes of at most `max_path_length` steps, one after another."""
        return self.episodes_per_trial * self.max_path_length

    def inner_rate(self, step: int) -> float:
        """α of an inner step, counted from 0."""
        rates = self.inner_lr if isinstance(self.inner_lr, tuple) else (self.inner_lr,)
        return rates[min(step, len(rates) - 1)]

    def outer_rate(self, iteration: int) -> float:
        """Step size of the optimiser of the meta-parameters in an iteration, counted from 0."""
        return self.learning_rate * self.learning_rate_anneal**iteration

    def replace(self, **changes: Any) -> Config:
        """This configuration with other values of keys, which are not checked.

        Raises ValueError for keys on which it depends what else there is: a new configuration takes `build_config`.
        """
        if fixed := changes.keys() & {"algorithm", "env", "env_kwargs"}:
            raise ValueError(f"{', '.join(sorted(fixed))}: cannot be replaced; make a new configuration")
        own = {name: changes.pop(name, value) for name, value in self.own.items()}
        return dataclasses.replace(self, own=own, **changes)

    def keys(self) -> dict[str, Key]:
        """Its keys: those common to all algorithms, and those of its own."""
        return COMMON_KEYS | dict(self.declaration.keys)

    def to_dict(self) -> dict[str, Any]:
        """The keys and values as a JSON object would hold them."""
        values = {name: getattr(self, name) for name in COMMON_KEYS} | dict(self.own)
        return {name: list(v) if isinstance(v, tuple) else copy.deepcopy(v) for name, v in values.items()}


COMMON_KEYS: dict[str, Key] = {f.name: f.metadata["key"] for f in dataclasses.fields(Config) if "key" in f.metadata}
# Names that RLlib gives to keys of ours.
ALIASES = {"inner_adaptation_steps": "num_inner_grad_steps", "maml_optimizer_steps": "num_promp_steps"}


def built_in_keys() -> dict[str, Key]:
    """The keys that algorithms of the toolkit have of their own, in the order of the table of names."""
    found: dict[str, Key] = {}
    for name in ALGORITHMS:
        found |= {key: value for key, value in declaration_of(name).keys.items() if key not in found}
    return found
