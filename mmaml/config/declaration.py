"""What an algorithm declares, in its own file, of its part of the configuration: `DECLARATION = Declaration(…)`.

`mmaml.config.declaration_file` reads it from there without importing the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from mmaml.config.value_types import Kind, shown
from mmaml.errors import ConfigError

if TYPE_CHECKING:
    from mmaml.config.keys import Config

# Common keys that have an effect only under an algorithm that has task embeddings.
EMBEDDING_KEYS = ("te_save_path", "num_embeddings")


def _always(config: Config) -> bool:
    return True


def _never(config: Config) -> bool:
    return False


@dataclass(frozen=True)
class Key:
    """One key of the configuration.

    group: the heading under which it is documented. kind: what values it takes. text: what it means.
    updates: the meta-updates under which alone it has an effect; under all when empty.
    resumable: whether it may change when a run continues.
    has_effect: whether it has an effect, given the other keys of a configuration.
    """

    group: str
    default: Any
    kind: Kind
    text: str
    updates: tuple[str, ...] = ()
    resumable: bool = False
    has_effect: Callable[[Config], bool] = _always


@dataclass(frozen=True)
class Condition:
    """What an algorithm asks of a key beyond its kind.

    holds: whether a configuration meets it. expected: in words, what the key has to be. reason: why the algorithm needs
    it, as a clause that follows "which". remedy: what to do, "" where `expected` says enough.
    """

    key: str
    holds: Callable[[Config], bool]
    expected: str
    reason: str
    remedy: str = ""

    def check(self, config: Config) -> None:
        """Raise ConfigError unless the configuration meets the condition."""
        if not self.holds(config):
            raise ConfigError(
                self.key,
                expected=f'{self.expected} with algorithm "{config.algorithm}", which {self.reason}',
                got=shown(getattr(config, self.key)),
                remedy=self.remedy,
            )


@dataclass(frozen=True)
class Declaration:
    """An algorithm's part of the configuration.

    keys: its own keys by name, beside those that are common to all algorithms (`mmaml.config.keys`).
    conditions: what it asks of them, and of common keys.
    weights: for the check of memory, by the key that sets it: how many numbers, at least, are trained beside the hidden
        layers of the policy.
    kept: likewise, how many numbers are kept beside rollouts and parameters, such as a buffer of earlier trials.
    computed: likewise, by the keys that set it: how many numbers the largest of the algorithm's own computations has in
        memory at one time.
    without: keys, common or inherited, that have no effect under it.
    notices: each returns a line that a run prints when it starts, about values that are allowed but probably not
        intended; "" where there is nothing to say.
    credit: how far rewards are credited to earlier actions. "episode": the algorithm samples a task in K+1 collections,
        with an inner step in between. "trial": it adapts by memory, in one collection whose lanes are trials of
        `episodes_per_trial` episodes, and rewards are credited over all of a lane.
    inner_steps: of credit "episode", whether it takes inner steps; without them a task is sampled in one collection.
    embeds: whether it holds each task in a vector, which its function "embed" gives.
    default_update: the meta-update that "auto" stands for; "" for an algorithm that ignores `meta_update`.
    reads_rewards: whether, with a configuration, a network of its policy reads rewards without scaling them.
    """

    keys: Mapping[str, Key] = field(default_factory=dict)
    conditions: Sequence[Condition] = ()
    weights: Mapping[str, Callable[[Config], int]] = field(default_factory=dict)
    kept: Mapping[str, Callable[[Config], int]] = field(default_factory=dict)
    computed: Mapping[tuple[str, ...], Callable[[Config], int]] = field(default_factory=dict)
    without: Sequence[str] = ()
    notices: Sequence[Callable[[Config], str]] = ()
    credit: Literal["episode", "trial"] = "episode"
    inner_steps: bool = True
    embeds: bool = False
    default_update: str = ""
    reads_rewards: Callable[[Config], bool] = _never

    def __post_init__(self) -> None:
        if self.credit not in ("episode", "trial"):
            raise ValueError(f"credit: expected 'episode' or 'trial', got {self.credit!r}")

    def extended(
        self,
        keys: Mapping[str, Key] | None = None,
        conditions: Sequence[Condition] = (),
        weights: Mapping[str, Callable[[Config], int]] | None = None,
        kept: Mapping[str, Callable[[Config], int]] | None = None,
        computed: Mapping[tuple[str, ...], Callable[[Config], int]] | None = None,
        without: Sequence[str] = (),
        notices: Sequence[Callable[[Config], str]] = (),
        credit: Literal["episode", "trial"] | None = None,
        inner_steps: bool | None = None,
        embeds: bool | None = None,
        default_update: str | None = None,
        reads_rewards: Callable[[Config], bool] | None = None,
    ) -> Declaration:
        """The declaration of an algorithm that extends this one: what this one declares, and the arguments."""
        return Declaration(
            {**self.keys, **(keys or {})},
            (*self.conditions, *conditions),
            {**self.weights, **(weights or {})},
            {**self.kept, **(kept or {})},
            {**self.computed, **(computed or {})},
            (*self.without, *without),
            (*self.notices, *notices),
            self.credit if credit is None else credit,
            self.inner_steps if inner_steps is None else inner_steps,
            self.embeds if embeds is None else embeds,
            self.default_update if default_update is None else default_update,
            self.reads_rewards if reads_rewards is None else reads_rewards,
        )

    @property
    def adapts(self) -> bool:
        """Whether a task is learned in stages: by inner steps, or over the episodes of a trial."""
        return self.credit == "trial" or self.inner_steps

    def stages(self, config: Config) -> int:
        """How many stages of learning a task an iteration has: collections, or the episodes of a trial."""
        if self.credit == "trial":
            return config.episodes_per_trial
        return config.num_inner_grad_steps + 1 if self.inner_steps else 1

    def embedding_stages(self, config: Config) -> int:
        """In how many of these stages a task is sampled to be embedded: the first collection, or a whole trial."""
        return self.stages(config) if self.credit == "trial" else 1

    def is_idle(self, name: str) -> bool:
        """Whether a key, common or its own, has no effect under the algorithm."""
        return name in self.without or (name in EMBEDDING_KEYS and not self.embeds)
