"""Figures of the discounting chain: what each chain gives and when, and which ones the policy chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from mmaml.envs.discounting_chain import DiscountingChain
from mmaml.figures.page import COLOURS, INK, legend_below, page, stage_name
from mmaml.figures.recording import SampledStages


@dataclass(frozen=True)
class ChainChoices:
    """Which of C chains are chosen in M tasks at each of K+1 stages of learning them.

    shares: of the episodes in which each chain was chosen, [M, K+1, C]. steps: after how many each gives its reward,
    [C]. bonus: the chain with the bonus, [M]. returns: [M, K+1]. names: of the tasks. by_episode: stages are the
    episodes of a trial, not numbers of adaptation steps.
    """

    shares: np.ndarray
    steps: np.ndarray
    bonus: np.ndarray
    returns: np.ndarray
    names: Sequence[str]
    by_episode: bool = False


def chain_choices(sampled: SampledStages) -> ChainChoices:
    """The first actions of all episodes of all rollouts."""
    family = cast(DiscountingChain, sampled.family)
    shares = []
    for data in sampled.rollouts:
        chosen = np.where(data.episode_start.numpy()[..., None], data.actions.numpy(), 0).sum((1, 2))
        shares.append(chosen / np.maximum(chosen.sum(-1, keepdims=True), 1))
    bonus = np.array([task.values["bonus_chain"] for task in sampled.tasks])
    returns = sampled.returns
    return ChainChoices(np.stack(shares, 1), family.reward_steps, bonus, returns, sampled.names, sampled.by_episode)


def plot_chain_choices(choices: ChainChoices, path: Path, *, title: str = "") -> None:
    """Draw a PNG with a column for each task and a row for each stage, in each of which a line is a chain.

    A line ends where the chain gives its reward, on a logarithmic axis, and is the thicker the more often the chain is
    chosen; a star marks the chain with the bonus.
    """
    tasks, stages, chains = choices.shares.shape
    with page(path, 2.4 * tasks + 0.8, 2.0 * stages + 0.6, stages, tasks) as (figure, panels):
        for (stage, task), axes in np.ndenumerate(np.asarray(panels).reshape(stages, tasks)):
            for chain, (step, share) in enumerate(zip(choices.steps, choices.shares[task, stage], strict=True)):
                axes.plot([0.7, step], [chain, chain], color="#DDDDDD", linewidth=1, zorder=1)
                if share > 0:
                    axes.plot([0.7, step], [chain, chain], color=COLOURS[0], linewidth=9 * share, zorder=2)
                if chain == choices.bonus[task]:
                    star = axes.plot(step, chain, "*", color=COLOURS[1], markersize=12, zorder=3, label="bonus")
                else:
                    axes.plot(step, chain, "o", color="#888888", markersize=5, zorder=3)
                axes.text(140, chain, f"{100 * share:.0f} %", fontsize=8, va="center", color=INK)
            axes.set(xscale="log", xlim=(0.7, 130), ylim=(chains - 0.5, -0.5), yticks=range(chains))
            axes.set_xticks(choices.steps, [str(step) for step in choices.steps])
            axes.minorticks_off()
            axes.grid(visible=False)
            if stage == 0:
                axes.set_title(choices.names[task], fontsize=11)
            if task == 0:
                axes.set_ylabel(f"{stage_name(stage, stages, choices.by_episode)}\nchain", fontsize=10)
            else:
                axes.tick_params(axis="y", labelleft=False)
            last = stage == stages - 1
            axes.set_xlabel(f"return {choices.returns[task, stage]:.2f}" + ("\nsteps" if last else ""), fontsize=9)
        figure.subplots_adjust(wspace=0.3, hspace=0.5)
        legend_below(figure, star, 0.6)
        if title:
            figure.suptitle(title, x=0.125, y=0.93 + 0.06 / stages, ha="left", va="bottom", fontsize=12, color=INK)
