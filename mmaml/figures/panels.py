"""Moving pictures of a policy, one panel for each task and number of adaptation steps; those of point masses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mmaml.envs.base import Task
from mmaml.envs.shown import shown
from mmaml.figures.page import return_text, signed
from mmaml.figures.trajectories import Trajectories, time_colours, wall

INK, GOAL, OTHER_GOALS, TRAIL = (51, 51, 51), (213, 94, 0), (200, 200, 200), (0, 114, 178)
NEAREST_TO_MEAN = "Each panel shows the episode whose return is nearest to the mean of its task."
SMOOTH = 3  # lines are drawn this many times larger, then shrunk


class Panels(ABC):
    """M rows, one per task, of K+1 panels, one per stage of learning it; each panel has a picture at every time step.

    names, details: of the tasks, [M]. captions: of the panels, [M][K+1]. lengths: the last time step of each, [M, K+1].
    ended: whether the episode shown ends there, before the horizon, bool [M, K+1]. dt: seconds per time step, None if
    time has no unit. note: what the captions mean. by_episode: stages are the episodes of a trial, not numbers of
    adaptation steps. width, height: of a panel, pixels.
    """

    names: Sequence[str]
    details: Sequence[str]
    captions: Sequence[Sequence[str]]
    lengths: np.ndarray
    ended: np.ndarray
    dt: float | None = None
    note: str = ""
    by_episode: bool = False
    width: int
    height: int

    def prepare(self, times: Collection[int]) -> None:  # noqa: B027  (most have nothing to prepare)
        """Called once, before the first picture. times: all at which there will be pictures."""

    @abstractmethod
    def picture(self, task: int, step: int, time: int) -> Image.Image:
        """A task after `step` adaptation steps, at a time step; at the last one if `time` is later."""

    def location(self, task: int, step: int, time: int) -> str:
        """The position of the body in a picture, in words; "" if the picture shows it."""
        return ""

    def close(self) -> None:  # noqa: B027  (most have nothing to release)
        """Release the renderer."""


class PointMassPanels(Panels):
    """Growing trajectories that darken with time; a star marks the goal, faint ones the goals of other tasks."""

    def __init__(self, trajectories: Trajectories, width: int) -> None:
        self.trajectories, self.by_episode = trajectories, trajectories.by_episode
        self.width = self.height = width
        tasks, collections, rollouts, steps, _ = trajectories.positions.shape
        self.names = trajectories.names
        self.details = [f"goal {vector(goal)}" for goal in trajectories.goals]
        self.captions = [[return_text(value) for value in row] for row in trajectories.returns]
        self.lengths = np.full((tasks, collections), steps - 1)
        self.ended = np.zeros((tasks, collections), bool)
        self.note = f"Returns are means over the {rollouts} rollouts drawn." if rollouts > 1 else ""
        self._scale = SMOOTH * width / (2 * trajectories.reach)
        colours = (255 * time_colours()(np.linspace(0, 1, steps))[:, :3]).astype(int)
        self._colours = [tuple(colour) for colour in colours.tolist()]
        self._drawn: dict[tuple[int, int], tuple[int, Image.Image]] = {}

    def picture(self, task: int, step: int, time: int) -> Image.Image:
        time = min(time, int(self.lengths[task, step]))
        pixels = self._pixels(self.trajectories.positions[task, step])
        connected = self.trajectories.connected[task, step]
        done, image = self._drawn.get((task, step), (0, None))
        if image is None or done > time:
            done, image = 0, self._empty(task)
        draw = ImageDraw.Draw(image)
        for t in range(done, time):
            for start, end in pixels[connected[:, t], t : t + 2]:
                draw.line([*start, *end], self._colours[t], SMOOTH + 1)
        self._drawn[task, step] = time, image
        image = image.copy()
        draw, radius = ImageDraw.Draw(image), 2 * SMOOTH
        for x, y in pixels[:, time]:
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], self._colours[-1], "white", 2)
        return image.reduce(SMOOTH)

    def _pixels(self, points: np.ndarray) -> np.ndarray:
        """The pixels of points [..., 2] in the large picture, whose y axis points down."""
        return SMOOTH * self.width / 2 + self._scale * points * [1, -1]

    def _empty(self, task: int) -> Image.Image:
        """The panel before the first step, large."""
        size = SMOOTH * self.width
        image = Image.new("RGB", (size, size), "white")
        draw = ImageDraw.Draw(image)
        draw.line([size / 2, 0, size / 2, size], (230, 230, 230), SMOOTH)
        draw.line([0, size / 2, size, size / 2], (230, 230, 230), SMOOTH)
        goals = self._pixels(self.trajectories.goals)
        for other in np.delete(goals, task, axis=0):
            star(draw, other, 6 * SMOOTH, OTHER_GOALS)
        for gap in [] if self.trajectories.gaps is None else self.trajectories.gaps[task]:
            outline = self._pixels(wall(gap))
            for start, end in zip(outline[:-1], outline[1:], strict=True):
                if np.isfinite([start, end]).all():
                    draw.line([*start, *end], (119, 119, 119), 2 * SMOOTH)
        star(draw, goals[task], 9 * SMOOTH, GOAL)
        return image


def describe(task: Task, called: str) -> str:
    """The values of a task that fit on a line, as "goal −1.00". called: its name, shown elsewhere, is left out."""
    left_out = {
        name for name, value in task.values.items() if name == "mode" or (isinstance(value, str) and value == called)
    }
    few = {name: values for name, values in task.values.items() if name not in left_out and np.size(values) <= 3}
    return ", ".join(f"{name} {_few(values)}" for name, values in few.items())


def _few(values: Any) -> str:
    numbers = np.asarray(values)
    return vector(numbers) if numbers.dtype.kind in "biuf" else shown(values)


def vector(values: np.ndarray) -> str:
    """A number, or a vector in brackets."""
    numbers = ", ".join(signed(value, 2) for value in np.ravel(values))
    return f"({numbers})" if np.size(values) > 1 else numbers


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font that comes with Matplotlib, which has all the letters used here."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def star(draw: ImageDraw.ImageDraw, center: np.ndarray, radius: float, colour: tuple[int, int, int]) -> None:
    """Draw a star about a pixel [2]."""
    angles = np.arange(10) * np.pi / 5 - np.pi / 2
    radii = np.where(np.arange(10) % 2, 0.4, 1.0) * radius
    points = center + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    draw.polygon([tuple(point) for point in points.tolist()], colour, "white", SMOOTH)
