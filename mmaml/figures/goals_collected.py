"""Figures of the Memory & Planning game: how many goals are collected, beside shortest paths on a known board."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from mmaml.envs.memory_planning import MemoryPlanningGame, shortest_path_goals
from mmaml.figures.page import INK, legend_below, page, stage_name
from mmaml.figures.recording import SampledStages
from mmaml.figures.trajectories import time_colours

MAX_NAMED_STAGES = 4


@dataclass(frozen=True)
class GoalsCollected:
    """Goals of M tasks collected after 0 … T steps of an episode, at each of K+1 stages of learning them.

    goals: mean over rollouts, [M, K+1, T+1]. shortest: by shortest paths on a known board, expected, [T+1]. names: of
    the tasks. by_episode: stages are the episodes of a trial, not numbers of adaptation steps.
    """

    goals: np.ndarray
    shortest: np.ndarray
    names: Sequence[str]
    by_episode: bool


def goals_collected(sampled: SampledStages) -> GoalsCollected:
    """The mean over all rollouts."""
    family = cast(MemoryPlanningGame, sampled.family)
    rewards = [np.where(data.mask.numpy() > 0, data.rewards.numpy(), 0) for data in sampled.rollouts]
    goals = np.stack([values.mean(1).cumsum(-1) for values in rewards], axis=1)
    goals = np.concatenate([np.zeros_like(goals[..., :1]), goals], axis=-1)
    shortest = shortest_path_goals(family.size, goals.shape[-1] - 1)
    return GoalsCollected(goals, shortest, sampled.names, sampled.by_episode)


def plot_goals_collected(collected: GoalsCollected, path: Path, *, title: str = "") -> None:
    """Draw a PNG with a panel for each task: goals collected so far by the step, a line for each stage.

    Later stages are darker; of more than four, some are named. The dashed line is that of shortest paths on a known
    board: a policy whose line is as steep has found them.
    """
    tasks, stages, _ = collected.goals.shape
    steps = np.arange(len(collected.shortest))
    shades = time_colours()(np.linspace(0, 1, stages)) if stages > 1 else time_colours()([0.5])
    named = set(np.linspace(0, stages - 1, min(stages, MAX_NAMED_STAGES)).round().astype(int).tolist())
    with page(path, 2.7 * tasks + 0.8, 2.6, 1, tasks) as (figure, panels):
        for task, axes in enumerate(np.ravel(panels)):
            known = axes.plot(steps, collected.shortest, "--", color="#777777", linewidth=1)[0]
            lines = [
                axes.plot(steps, collected.goals[task, stage], color=shades[stage], linewidth=1.8)[0]
                for stage in range(stages)
            ]
            largest = max(collected.shortest[-1], collected.goals.max(), 1)
            axes.set(xlabel="steps", xlim=(0, steps[-1]), ylim=(0, 1.05 * largest))
            axes.set_title(collected.names[task], fontsize=11)
            axes.locator_params(axis="x", integer=True, nbins=6)
            if task:
                axes.tick_params(axis="y", labelleft=False)
        np.ravel(panels)[0].set_ylabel("goals collected so far", fontsize=11)
        figure.subplots_adjust(wspace=0.2)
        known.set_label("shortest paths, with the board known")
        for stage in named:
            lines[stage].set_label(stage_name(stage, stages, collected.by_episode))
        legend_below(figure, [*(lines[stage] for stage in sorted(named)), known], 0.5)
        if title:
            figure.suptitle(title, x=0.125, y=1.0, ha="left", va="bottom", fontsize=12, color=INK)
