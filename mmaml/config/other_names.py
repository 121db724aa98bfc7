"""Keys of the YAML files of RobvanGastel/meta-rl-algorithms, and ours: sections there, flat names here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from mmaml.config.declaration import Key
from mmaml.config.keys import LEGACY
from mmaml.config.value_types import SIZES, Kind, choice, clipped, integer, shown
from mmaml.errors import ConfigError

# By section, "" for keys outside of all.
NAMES: dict[str, dict[str, str]] = {
    "": {
        "device_id": "device",
        "episodes": "episodes_per_trial",
        "meta_epochs": "n_itr",
        "epochs": "n_itr",
        "max_episode_steps": "max_path_length",
        "update_epochs": "num_promp_steps",
        "gamma": "discount",
        "inner_steps": "num_inner_grad_steps",
        "outer_lr": "meta_learning_rate",
    },
    "actor_critic": {"rnn_size": "cell_size", "actor_hidden_sizes": "hidden_sizes"},
    "ppo": {"lr": "learning_rate", "clip_ratio": "clip_eps", "value_coeff": "vf_loss_coeff"},
    "a2c": {"lr": "learning_rate", "value_coeff": "vf_loss_coeff"},
}
# Outside of all sections, in a file that has the section "a2c".
BESIDE_A2C = {"inner_lr": "learning_rate"}


def _without_effect(kind: Kind) -> Key:
    return Key(LEGACY, None, kind, "accepted in other programs' files; has no effect")


# What has no counterpart here: it is checked, noticed, and left out. Those of a section keep its name, so that a slip
# in one of our own keys, such as "hidden_size", is not taken for them.
IGNORED: dict[str, Key] = {
    "log_every_n": _without_effect(integer(1)),
    "update_every_n": _without_effect(integer(1)),
    "num_steps": _without_effect(integer(1)),
    "actor_critic.rnn_type": _without_effect(choice("gru")),
    "actor_critic.obs_enc_dim": _without_effect(integer(1)),
    "actor_critic.critic_hidden_sizes": _without_effect(SIZES),
    "actor_critic.hidden_size": _without_effect(integer(1)),
}


def remedy(name: str, known: Collection[str]) -> str:
    """What to do about one of these keys where they are not read, as "ppo.lr" or "ppo"; "" for any other key."""
    section, _, key = name.rpartition(".")
    if name and name in NAMES:
        return "it is a section of keys, in YAML files alone"
    names = NAMES.get(section, {})
    ours = names.get(key, key if section and names and key in known else "")
    return f"did you mean '{ours}'?" if ours else ""


def with_our_names(values: Mapping[str, Any], known: Collection[str], source: str) -> dict[str, Any]:
    """Keys and values without sections, under our names. known: keys that mean what they say.

    Raises ConfigError for an unknown key of a section, for a section without keys, and for a key that is given under
    several names.
    """
    beside = BESIDE_A2C if isinstance(values.get("a2c"), Mapping) else {}
    found: dict[str, Any] = {}
    given: dict[str, str] = {}
    for name, value in values.items():
        is_section = name in NAMES and name not in known
        if is_section and not isinstance(value, Mapping):
            raise ConfigError(name, expected="a section of keys", got=shown(value), remedy="indent its keys below it")
        for key, item in value.items() if is_section else [(name, value)]:
            names = NAMES[name] if is_section else NAMES[""] | beside
            means_itself = key in known and (is_section or key not in beside)
            full_name = f"{name}.{key}" if is_section else key
            ours = key if means_itself else names.get(key, full_name)
            if is_section and ours not in known:
                raise ConfigError(clipped(full_name), "unknown key", "see docs/configuration.md for the keys")
            if ours in found:
                raise ConfigError(
                    source, f"'{given[ours]}' and '{clipped(full_name)}' are two names of one key", "keep one"
                )
            found[ours], given[ours] = item, full_name
    return found
