"""Moving pictures of MuJoCo bodies: the camera, the markers of goals, the trail of the body."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mujoco
import numpy as np
from PIL import Image, ImageDraw

from mmaml.figures.camera import SIDE, Camera, framed, view
from mmaml.figures.page import return_text
from mmaml.figures.panels import (
    GOAL,
    NEAREST_TO_MEAN,
    OTHER_GOALS,
    SMOOTH,
    TRAIL,
    Panels,
    describe,
    vector,
)
from mmaml.figures.ray_caster import Drawing, Marker
from mmaml.figures.recording import RecordedEpisodes, names_of
from mmaml.figures.renderer import Renderer

Artist = Callable[[mujoco.MjModel, int, int], Drawing | Renderer]
# In units of the distance at which a camera shows just the body at rest. If the whole scene needs a camera farther away
# than MAX_DISTANCE, the camera follows the body at FOLLOWING_DISTANCE instead.
MAX_DISTANCE, FOLLOWING_DISTANCE = 6.0, 1.6
SPEED_STEPS = 10  # time steps over which a body's speed is measured


class MujocoPanels(Panels):
    """One episode in each panel, with the trail of the body, a ball at the goal and faint ones at other tasks' goals.

    All panels share one camera if it can show the paths of all bodies and all goals from not too far away. Otherwise
    the camera of each panel follows its body, and an arrow points to a goal out of sight. width: of a panel, pixels.
    artist: makes the object that draws, from model, width and height.
    """

    def __init__(self, episodes: RecordedEpisodes, width: int, artist: Artist = Drawing) -> None:
        self.episodes = episodes
        self.width, self.height = width, 3 * width // 4
        family, tasks = episodes.family, episodes.tasks
        self.dt = family.dt
        self.names = names_of(tasks, family)
        self.details = [describe(task, name) for task, name in zip(tasks, self.names, strict=True)]
        self.captions = [[return_text(value) for value in row] for row in episodes.returns]
        self.lengths = np.array([[len(qpos) - 1 for qpos in row] for row in episodes.qpos])
        self.ended, self.by_episode = episodes.ended, episodes.by_episode
        self.note = NEAREST_TO_MEAN
        self._goals = [family.marker(task) for task in tasks]
        self._ways = [[root_positions(family.model, qpos) for qpos in row] for row in episodes.qpos]
        self._moves = any(np.ptp(way, axis=0).max() > 1e-6 for row in self._ways for way in row)
        self._angles = view(family.model)
        self._camera, self._follows = self._place_camera()
        self._artist = artist(family.model, self.width, self.height)

    def picture(self, task: int, step: int, time: int) -> Image.Image:
        time = min(time, int(self.lengths[task, step]))
        way, camera = self._ways[task][step][: time + 1], self._camera
        if self._follows:
            x, y, z = camera.lookat
            camera = camera._replace(lookat=(x + float(way[-1, 0]), y + float(way[-1, 1]), z))
        qpos = self.episodes.qpos[task][step][time]
        image = Image.fromarray(self._artist.draw(qpos, camera, self._markers(task, camera)))
        if self._moves:
            _draw_trail(image, camera.project(way, SMOOTH * self.width, SMOOTH * self.height))
        goal = self._goals[task]
        if goal is not None:
            _point_to(image, *camera.project(goal, self.width, self.height))
        return image

    def location(self, task: int, step: int, time: int) -> str:
        if not self._moves:
            return ""
        name, axes = ("x ", [0]) if self._angles == SIDE else ("", [0, 1])
        recent = self._ways[task][step][: time + 1, axes][-SPEED_STEPS - 1 :]
        speed = np.linalg.norm(recent[-1] - recent[0]) / (max(len(recent) - 1, 1) * self.episodes.family.dt)
        return f"{name}{vector(recent[-1])} m  {speed:.1f} m/s"

    def close(self) -> None:
        """Release the renderer."""
        self._artist.close()

    def _place_camera(self) -> tuple[Camera, bool]:
        """The camera of all panels, False; or a camera for a body whose root is at the origin, True: it follows."""
        aspect, model = self.width / self.height, self.episodes.family.model
        start = self.episodes.qpos[0][0][:1]
        rest = extent(model, start)
        boxes = [extent(model, qpos) for row in self.episodes.qpos for qpos in row]
        goals = [goal[None] for goal in self._goals if goal is not None]
        whole = framed(np.concatenate(boxes + goals), self._angles, aspect)
        alone = framed(rest - root_positions(model, start) * [1, 1, 0], self._angles, aspect)
        if whole.distance <= MAX_DISTANCE * alone.distance:
            return whole._replace(distance=1.1 * whole.distance), False
        return alone._replace(distance=FOLLOWING_DISTANCE * alone.distance), True

    def _markers(self, task: int, camera: Camera) -> Sequence[Marker]:
        shown = [number for number in range(len(self._goals)) if number == task or not self._follows]
        return [
            Marker(
                goal, (0.025 if number == task else 0.014) * camera.distance, GOAL if number == task else OTHER_GOALS
            )
            for number in shown
            if (goal := self._goals[number]) is not None
        ]


def root_positions(model: mujoco.MjModel, qpos: np.ndarray) -> np.ndarray:
    """The position of the first body at each of the positions qpos [n, nq]: [n, 3], m."""
    data = mujoco.MjData(model)
    roots = np.empty((len(qpos), 3))
    for root, data.qpos[:] in zip(roots, qpos, strict=True):
        mujoco.mj_kinematics(model, data)
        root[:] = data.xpos[1]
    return roots


def extent(model: mujoco.MjModel, qpos: np.ndarray) -> np.ndarray:
    """The corners [8, 3] of a box around all moving parts at all of the positions qpos [n, nq]."""
    data = mujoco.MjData(model)
    moving = model.geom_bodyid > 0
    radius = model.geom_rbound[moving, None]
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for data.qpos[:] in qpos:
        mujoco.mj_kinematics(model, data)
        centres = data.geom_xpos[moving]
        low, high = np.minimum(low, (centres - radius).min(0)), np.maximum(high, (centres + radius).max(0))
    return np.stack(np.meshgrid(*zip(low, high, strict=True), indexing="ij"), axis=-1).reshape(-1, 3)


def _draw_trail(image: Image.Image, way: tuple[np.ndarray, np.ndarray]) -> None:
    """Draw a line with a dot at its end. way: pixels [t, 2] of a picture `SMOOTH` times as large, and depths [t]."""
    pixels, away = way
    overlay = Image.new("RGBA", (image.width * SMOOTH, image.height * SMOOTH), (*TRAIL, 0))
    draw = ImageDraw.Draw(overlay)
    points = [tuple(pixel) for pixel in pixels[away > 0].tolist()]
    colour = (*TRAIL, 190)
    draw.line(points, colour, 2 * SMOOTH - 1, joint="curve")
    draw.circle(points[-1], 2.5 * SMOOTH, colour)
    overlay = overlay.reduce(SMOOTH)
    image.paste(overlay, mask=overlay)


def _point_to(image: Image.Image, pixel: np.ndarray, away: np.ndarray) -> None:
    """Draw an arrow at the edge of the picture towards a pixel [2] outside it, if it is in front (depth > 0)."""
    middle = np.array(image.size) / 2
    offset = pixel - middle
    beyond = np.abs(offset / middle).max()
    if beyond <= 1 or not away > 0:
        return
    tip = middle + offset / beyond * (1 - 8 / middle.min())
    along = 14 * offset / np.linalg.norm(offset)
    across = np.array([along[1], -along[0]]) / 2
    points = [tip, tip - along + across, tip - along - across]
    ImageDraw.Draw(image).polygon([tuple(point) for point in np.array(points).tolist()], GOAL, "white")
