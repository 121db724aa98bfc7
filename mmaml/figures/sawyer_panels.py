"""Moving pictures of Meta-World's robot arm at its table, with a ball at the goal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmaml.config.keys import Config
from mmaml.envs.metaworld import MetaWorld
from mmaml.envs.sawyer import MOVED
from mmaml.figures.camera import Camera
from mmaml.figures.mujoco_panels import Artist
from mmaml.figures.panels import GOAL
from mmaml.figures.ray_caster import Drawing, Marker
from mmaml.figures.rendered_panels import PlayedPanels
from mmaml.figures.renderer import Renderer

CAMERA = Camera((0.0, 0.62, 0.17), 1.05, 150.0, -26.0)  # from the arm's right: what it works on faces the camera
GOAL_RADIUS = 0.02  # m


class SawyerPanels(PlayedPanels):
    """As `PlayedPanels`. width: of a panel, pixels. artist: makes what draws a model, from it, width and height."""

    def __init__(
        self, config: Config, state: Mapping[str, Any], stages: int, split: str, width: int, artist: Artist
    ) -> None:
        self._make_artist = artist
        self._artists: dict[str, Drawing | Renderer] = {}
        super().__init__(config, state, stages, split, (width, 3 * width // 4))

    def draw(self, family: MetaWorld, lane: int) -> np.ndarray:
        environment, pose = family.pose(lane)
        if environment not in self._artists:
            self._artists[environment] = self._make_artist(pose.model, self.width, self.height)
        artist = self._artists[environment]
        for name in MOVED:
            getattr(artist.model, name)[:] = getattr(pose.model, name)
        return artist.draw(pose.qpos, CAMERA, [Marker(pose.goal, GOAL_RADIUS, GOAL)])

    def close(self) -> None:
        """Release the renderers."""
        while self._artists:
            self._artists.popitem()[1].close()
