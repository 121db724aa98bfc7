"""Which picture shows how a policy learns a task of which family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mmaml.envs.bandit import Bandit
from mmaml.envs.base import TaskVectorEnv
from mmaml.envs.discounting_chain import DiscountingChain
from mmaml.envs.discrete import GridFamily
from mmaml.envs.memory_planning import MemoryPlanningGame
from mmaml.envs.point_mass import PointMass
from mmaml.envs.tabular_mdp import TabularMDP
from mmaml.figures.bandit_pulls import bandit_pulls, plot_bandit_pulls
from mmaml.figures.chain_choices import chain_choices, plot_chain_choices
from mmaml.figures.goals_collected import goals_collected, plot_goals_collected
from mmaml.figures.grid_paths import beliefs_about_cells, grid_paths, plot_grid_paths
from mmaml.figures.mdp_actions import mdp_actions, plot_mdp_actions
from mmaml.figures.recording import SampledStages, point_mass_trajectories
from mmaml.figures.trajectories import plot_trajectories

# Draws what was sampled into a file, under a title.
Picture = Callable[[SampledStages, Path, str], None]


def _trajectories(sampled: SampledStages, path: Path, title: str) -> None:
    plot_trajectories(point_mass_trajectories(sampled), path, title=title)


def _walks(sampled: SampledStages, path: Path, title: str) -> None:
    beliefs = beliefs_about_cells(sampled)
    plot_grid_paths(grid_paths(sampled), path, beliefs=beliefs, expectation=sampled.expectation, title=title)


def _pulls(sampled: SampledStages, path: Path, title: str) -> None:
    plot_bandit_pulls(bandit_pulls(sampled), path, title=title)


def _choices(sampled: SampledStages, path: Path, title: str) -> None:
    plot_chain_choices(chain_choices(sampled), path, title=title)


def _actions(sampled: SampledStages, path: Path, title: str) -> None:
    plot_mdp_actions(mdp_actions(sampled), path, title=title)


def _goals(sampled: SampledStages, path: Path, title: str) -> None:
    plot_goals_collected(goals_collected(sampled), path, title=title)


PICTURES: dict[type, Picture] = {
    PointMass: _trajectories,
    GridFamily: _walks,
    Bandit: _pulls,
    DiscountingChain: _choices,
    TabularMDP: _actions,
    MemoryPlanningGame: _goals,
}


def picture_of(family: type[TaskVectorEnv]) -> Picture | None:
    """The picture of a family by its class, or None if it has none."""
    return next((picture for kind, picture in PICTURES.items() if issubclass(family, kind)), None)
