"""Figures of tabular MDPs: in which states the policy takes the best action, and its return beside the best one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmaml.envs.tabular_mdp import action_values
from mmaml.figures.recording import SampledStages
from mmaml.figures.share_maps import ShareMaps, plot_share_maps


@dataclass(frozen=True)
class MdpActions:
    """What is done in M tasks of S states at each of K+1 stages of learning them.

    shares: of the visits to each state in which the best action is taken, [M, K+1, S]; NaN without a visit. returns:
    [M, K+1]. best_returns, random_returns: of the best policy for the known task, and of actions at random, [M]. names:
    of the tasks. by_episode: stages are the episodes of a trial, not numbers of adaptation steps.
    """

    shares: np.ndarray
    returns: np.ndarray
    best_returns: np.ndarray
    random_returns: np.ndarray
    names: Sequence[str]
    by_episode: bool


def mdp_actions(sampled: SampledStages) -> MdpActions:
    """The actions of all rollouts. Which one is best depends on the state and on how many steps are left."""
    tables = [(task.values["transitions"], task.values["rewards"]) for task in sampled.tasks]
    horizon = int(max(data.times().max() for data in sampled.rollouts)) + 1
    values = [action_values(*table, horizon) for table in tables]
    at_random = [action_values(*table, horizon, random=True)[1] for table in tables]
    best = np.stack([of_actions[::-1].argmax(2) for of_actions, _ in values])  # by the time in an episode, [M, T, S]
    states = best.shape[2]
    shares = np.full((len(tables), len(sampled.rollouts), states), np.nan)
    for stage, (data, observed) in enumerate(zip(sampled.rollouts, sampled.observations, strict=True)):
        state, time, real = observed.argmax(-1), data.times().numpy(), data.mask.numpy() > 0
        taken = data.actions.numpy().argmax(-1)
        for task in range(len(tables)):
            here = state[task][real[task]]
            right = taken[task][real[task]] == best[task][time[task][real[task]], here]
            visits = np.bincount(here, minlength=states)
            seen = visits > 0
            shares[task, stage, seen] = np.bincount(here, right, states)[seen] / visits[seen]
    return MdpActions(
        shares=shares,
        returns=sampled.returns,
        best_returns=np.array([of_states[-1, 0] for _, of_states in values]),
        random_returns=np.array([of_states[-1, 0] for of_states in at_random]),
        names=sampled.names,
        by_episode=sampled.by_episode,
    )


def plot_mdp_actions(actions: MdpActions, path: Path, *, title: str = "") -> None:
    """Draw a PNG with a column for each task: above, how often the best action is taken in each state; below, returns.

    The lines beside that of the policy are the returns of the best policy for the known task and of random actions.
    """
    tasks, stages, states = actions.shares.shape
    maps = ShareMaps(
        shares=actions.shares,
        rows="state",
        row_names=[[str(state) for state in range(states)]] * tasks,
        stage="episode" if actions.by_episode else "adaptation steps",
        first=int(actions.by_episode),
        quantity="return",
        policy=actions.returns,
        references={
            "actions at random": np.repeat(actions.random_returns[:, None], stages, 1),
            "best, with the task known": np.repeat(actions.best_returns[:, None], stages, 1),
        },
        names=actions.names,
        scale="share of best actions",
        nothing="state not visited",
    )
    plot_share_maps(maps, path, title=title)
