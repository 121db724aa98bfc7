"""The flags of run_scripts/maml_run.py, which names the program that has them."""

from __future__ import annotations

from mmaml.cli.train import Flag, Script
from mmaml.config.keys import Config
from mmaml.config.loading import check_value
from mmaml.config.shipped import shipped_configs
from mmaml.config.value_types import MAX_LAYERS, integer
from mmaml.storage.starting import Values

# That program's environments -> ours, with its settings: episodes of 200 steps, actions that are not rescaled.
_AS_THERE = {"max_path_length": 200, "normalization_scale": None}
ENVIRONMENTS: dict[str, Values] = {
    "HalfCheetahDir-v1": {"env": "HalfCheetahRandDirecEnv"} | _AS_THERE,
    "HalfCheetahVel-v1": {"env": "HalfCheetahRandVelEnv", "env_kwargs": {"goals": [[0, 2]]}} | _AS_THERE,
}


def _environment(name: str, before: Values) -> Values:
    return ENVIRONMENTS.get(name, {"env": name})


def _layers(count: int, before: Values) -> Values:
    return {"hidden_sizes": [_sizes(before)[0]] * count}


def _units(size: int, before: Values) -> Values:
    return {"hidden_sizes": [size] * len(_sizes(before))}


def _sizes(before: Values) -> list[int]:
    sizes = before.get("hidden_sizes", Config.hidden_sizes)
    check_value("hidden_sizes", sizes)
    return list(sizes)


SCRIPT = Script(
    flags={
        "--env-name": Flag("env", None, _environment, f"a family's name; also {' and '.join(ENVIRONMENTS)}"),
        "--gamma": Flag("discount"),
        "--tau": Flag("gae_lambda"),
        "--first-order": Flag("first_order"),
        "--num-layers": Flag("hidden_sizes", integer(1, MAX_LAYERS), _layers, "how many hidden layers, of one size"),
        "--hidden-size": Flag("hidden_sizes", integer(1), _units, "units of each hidden layer"),
        "--fast-batch-size": Flag("rollouts_per_meta_task"),
        "--fast-lr": Flag("inner_lr"),
        "--num-batches": Flag("n_itr"),
        "--meta-batch-size": Flag("meta_batch_size"),
        "--max-kl": Flag("max_kl"),
        "--cg-iters": Flag("cg_iters"),
        "--cg-damping": Flag("cg_damping"),
        "--ls-max-steps": Flag("ls_max_steps"),
        "--ls-backtrack-ratio": Flag("ls_backtrack_ratio"),
        "--save-iters": Flag("save_steps"),
        "--device": Flag("device"),
    },
    synonyms={"--dump_path": ("--output-folder",), "--ranks": ("--num-workers",)},
    config_file=shipped_configs()["maml_run"],
    description="""\
Meta-train by trust region (Finn et al. 2017), with the flags and defaults of a program for TensorFlow 2.
Without mpirun, starts itself under mpirun with one rank per physical core.
""",
    epilog="What these flags and --overrides leave out has the value of the configuration file.",
)
