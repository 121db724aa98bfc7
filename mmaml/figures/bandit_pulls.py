"""Figures of bandits: which arms are pulled at each stage of learning a task, and what is lost by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmaml.figures.page import COLOURS, INK, legend_below, page
from mmaml.figures.recording import SampledStages


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
    tasks, stages, arms = pulls.shares.shape
    stage = np.arange(stages) + pulls.by_episode
    name = "pull" if pulls.by_episode else "adaptation steps"
    with page(path, 2.7 * tasks + 0.8, 4.4, 2, tasks) as (figure, panels):
        panels = np.asarray(panels).reshape(2, tasks)
        for task in range(tasks):
            order = pulls.means[task].argsort()
            above, below = panels[:, task]
            extent = (stage[0] - 0.5, stage[-1] + 0.5, -0.5, arms - 0.5)
            image = pulls.shares[task][:, order].T
            above.imshow(image, origin="lower", aspect="auto", extent=extent, cmap="Blues", vmin=0, vmax=1)
            above.set_title(pulls.names[task], fontsize=11)
            above.grid(visible=False)
            if arms <= 12:
                above.set_yticks(range(arms), [f"{mean:.2f}" for mean in pulls.means[task][order]], fontsize=8)
            marker = "o-" if stages < 16 else "-"
            below.plot(stage, pulls.regret[task], marker, color=COLOURS[0], markersize=3.5, label="the policy")
            below.plot(stage, pulls.random_regret[task], "--", color="#999999", linewidth=1, label="pulls at random")
            largest = max(pulls.regret[task].max(), pulls.random_regret[task].max())
            below.set(xlabel=name, ylim=(0, 1.1 * largest + 1e-9), xlim=extent[:2])
            for axes in (above, below):
                axes.locator_params(axis="x", integer=True, nbins=6)
        panels[0, 0].set_ylabel("arm, by its mean", fontsize=11)
        panels[1, 0].set_ylabel("regret so far" if pulls.by_episode else "regret a pull", fontsize=11)
        figure.subplots_adjust(wspace=0.28, hspace=0.18)
        legend_below(figure, panels[1, 0].get_lines(), 0.5)
        if title:
            figure.suptitle(title, x=0.125, y=0.97, ha="left", va="bottom", fontsize=12, color=INK)
