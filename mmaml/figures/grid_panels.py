"""Moving pictures of walks on boards."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from mmaml.envs.discrete import DEATH, GOAL, NORMAL
from mmaml.figures.grid_paths import TILE_STYLES, GridPaths, drifted
from mmaml.figures.page import return_text
from mmaml.figures.panels import GOAL as STAR
from mmaml.figures.panels import SMOOTH, Panels, font, star
from mmaml.figures.trajectories import time_colours

LINE, PALE = (221, 221, 221), (136, 136, 136)


class GridPanels(Panels):
    """The board, and on it the way so far, which darkens with time; a dot is the agent, stars are goals.

    horizon: of an episode, steps; one that is shorter has ended.
    """

    def __init__(self, paths: GridPaths, width: int, horizon: int) -> None:
        self.paths, self.by_episode = paths, paths.by_episode
        self.width = self.height = width
        self.names = paths.names
        self.details = ["" for _ in paths.names]
        self.captions = [[return_text(value) for value in row] for row in paths.returns]
        self.lengths = np.array([[len(cells) for cells in row] for row in paths.cells])
        self.ended = self.lengths < horizon
        self.note = "Of one rollout; where its last step led is not shown."
        self._cell = SMOOTH * width / len(paths.tiles[0])

    def picture(self, task: int, step: int, time: int) -> Image.Image:
        time = min(time, int(self.lengths[task, step]) - 1)
        image = self._board(self.paths.tiles[task])
        draw = ImageDraw.Draw(image)
        cells = self.paths.cells[task][step]
        places = self._pixels(drifted(cells))
        colours = (255 * time_colours()(np.linspace(0, 1, len(cells)))[:, :3]).astype(int).tolist()
        for t in range(time):
            draw.line([*places[t], *places[t + 1]], tuple(colours[t]), 2 * SMOOTH)
        x, y = places[time]
        radius = self._cell / 7
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], tuple(colours[-1]), "white", SMOOTH)
        return image.reduce(SMOOTH)

    def _pixels(self, cells: np.ndarray) -> np.ndarray:
        """The pixels of the middles of cells [..., 2] in the large picture, whose y axis points down."""
        return self._cell * (cells * [1, -1] + [0.5, len(self.paths.tiles[0]) - 0.5])

    def _board(self, tiles: np.ndarray) -> Image.Image:
        image = Image.new("RGB", (SMOOTH * self.width,) * 2, "white")
        draw = ImageDraw.Draw(image)
        half = np.full(2, self._cell / 2)
        for cell in np.ndindex(*tiles.shape):
            middle, tile = self._pixels(np.array(cell)), int(tiles[cell])
            colour, letter = TILE_STYLES.get(tile, ("white", ""))
            draw.rectangle([*(middle - half), *(middle + half)], colour, LINE, SMOOTH)
            if tile == GOAL:
                star(draw, middle, 0.35 * self._cell, STAR)
            elif tile != NORMAL:
                ink = "white" if tile == DEATH else PALE
                draw.text(tuple(middle), letter, ink, font(max(6, int(0.45 * self._cell))), "mm")
        return image
