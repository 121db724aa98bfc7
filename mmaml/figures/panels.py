"""Moving pictures of a policy, a panel for each task and number of adaptation steps: the contract, and point masses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mmaml.figures.trajectories import Trajectories, time_colours, wall

INK, GOAL, OTHER_GOALS, TRAIL = (51, 51, 51), (213, 94, 0), (200, 200, 200), (0, 114, 178)
SMOOTH = 3  # lines are drawn so many times as large, then shrunk


class Panels(ABC):
    """M rows, one a task, of K+1 panels, one a stage of learning it; each a picture at any time step.

    names, details [M]: of the tasks; captions [M][K+1]: of the panels; lengths [M, K+1]: the last time step of
    each; ended bool [M, K+1]: whether the episode shown comes to its end there; dt: seconds a time step, None where
    it has no unit; note: what the captions say; by_episode: stages are the episodes of a trial, in place of numbers of
    adaptation steps; width, height: of a panel, pixels.
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

    @abstractmethod
    def picture(self, task: int, step: int, time: int) -> Image.Image:
        """A task after `step` adaptation steps, at a time step; the last one where that is past it."""

    def place(self, task: int, step: int, time: int) -> str:
        """Where the body in a picture is, in words; nothing, where the picture tells."""
        return ""

    def close(self) -> None:  # noqa: B027  (most hold nothing)
        """Release what draws."""


class PointMassPanels(Panels):
    """Trajectories as they grow; they darken with time, a star marks the goal, faint ones the other tasks' goals."""

    def __init__(self, trajectories: Trajectories, width: int) -> None:
        self.trajectories, self.by_episode = trajectories, trajectories.by_episode
        self.width = self.height = width
        tasks, collections, rollouts, steps, _ = trajectories.positions.shape
        self.names = trajectories.names
        self.details = [f"goal {vector(goal)}" for goal in trajectories.goals]
        self.captions = [[return_text(value) for value in row] for row in trajectories.returns]
        self.lengths = np.full((tasks, collections), steps - 1)
        self.ended = np.zeros((tasks, collections), bool)
        self.note = f"Return: mean over the {rollouts} rollouts drawn." if rollouts > 1 else ""
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
        """Where points [..., 2] are in the large picture; y points upwards there, downwards here."""
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
            _star(draw, other, 6 * SMOOTH, OTHER_GOALS)
        for gap in [] if self.trajectories.gaps is None else self.trajectories.gaps[task]:
            outline = self._pixels(wall(gap))
            for start, end in zip(outline[:-1], outline[1:], strict=True):
                if np.isfinite([start, end]).all():
                    draw.line([*start, *end], (119, 119, 119), 2 * SMOOTH)
        _star(draw, goals[task], 9 * SMOOTH, GOAL)
        return image


def return_text(value: float) -> str:
    """A return with as many digits as its size asks for."""
    return f"return {_signed(value, 0 if abs(value) >= 100 else 1)}"


def vector(values: np.ndarray) -> str:
    """A number, or a vector in brackets."""
    numbers = ", ".join(_signed(value, 2) for value in np.ravel(values))
    return f"({numbers})" if np.size(values) > 1 else numbers


def _signed(value: float, digits: int) -> str:
    return f"{round(float(value), digits) + 0.0:.{digits}f}".replace("-", "−")  # no sign before a zero


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Matplotlib's own typeface, which has all the letters used here."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def _star(draw: ImageDraw.ImageDraw, center: np.ndarray, radius: float, colour: tuple[int, int, int]) -> None:
    angles = np.arange(10) * np.pi / 5 - np.pi / 2
    radii = np.where(np.arange(10) % 2, 0.4, 1.0) * radius
    points = center + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    draw.polygon([tuple(point) for point in points.tolist()], colour, "white", SMOOTH)
