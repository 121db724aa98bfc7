"""Figures of bandits: which arms are pulled at each stage of learning a task, and what is lost by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmaml.figures.recording import SampledStages
from mmaml.figures.share_maps import ShareMaps, plot_share_maps


@dataclass(frozen=True)
class BanditPulls:
    """Pulls of M tasks with K arms at each of S stages: the pulls of a trial, or numbers of adaptation steps.

    shares: of the pulls of a stage that went to each arm, [M, S, K]. means: of the arms, [M, K]. names: of the tasks.
    by_episode: stages are the pulls of a trial.
    """

    shares: np.ndarray
    means: np.ndarray
    names: Sequence[str]
    by_episode: bool

    @property
    def regret(self) -> np.ndarray:
        """The best arm's mean less that of the arm pulled, on average: summed up over a trial, else a pull, [M, S]."""
        lost = self.means.max(1, keepdims=True) - np.einsum("msk,mk->ms", self.shares, self.means)
        return lost.cumsum(1) if self.by_episode else lost

    @property
    def random_regret(self) -> np.ndarray:
        """The same of a policy that pulls all arms equally often, [M, S]."""
        lost = np.repeat((self.means.max(1) - self.means.mean(1))[:, None], self.shares.shape[1], axis=1)
        return lost.cumsum(1) if self.by_episode else lost


def bandit_pulls(sampled: SampledStages) -> BanditPulls:
    """The pulls of all rollouts."""
    shares = []
    for data in sampled.rollouts:
        real = data.mask.numpy()[..., None]
        pulls = (np.where(real > 0, data.actions.numpy(), 0)).sum((1, 2))
        shares.append(pulls / np.maximum(real.sum((1, 2)), 1))
    means = np.stack([task.values["means"] for task in sampled.tasks])
    return BanditPulls(np.stack(shares, axis=1), means, sampled.names, sampled.by_episode)


def plot_bandit_pulls(pulls: BanditPulls, path: Path, *, title: str = "") -> None:
    """Draw a PNG with a column for each task: above, how often each arm is pulled at each stage; below, the regret.

    Arms are sorted by their means, the best one on top. The dashed line is the regret of pulling at random.
    """
    order = pulls.means.argsort(1)
    maps = ShareMaps(
        shares=np.take_along_axis(pulls.shares, order[:, None], axis=2),
        rows="arm, by its mean",
        row_names=[[f"{mean:.2f}" for mean in np.sort(means)] for means in pulls.means],
        stage="pull" if pulls.by_episode else "adaptation steps",
        first=int(pulls.by_episode),
        quantity="regret so far" if pulls.by_episode else "regret a pull",
        policy=pulls.regret,
        references={"pulls at random": pulls.random_regret},
        names=pulls.names,
    )
    plot_share_maps(maps, path, title=title)
