"""Where a picture of a MuJoCo model is taken from: MuJoCo's free camera, its projection, and what it should show."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import mujoco
import numpy as np

FIELD_OF_VIEW = 45.0  # vertical, degrees; MuJoCo's default
# Azimuth and elevation, degrees: bodies that move in a vertical plane along x are seen from the side, those that
# move on the ground from above, all others from where both their height and their way are seen.
SIDE, TOP, OBLIQUE = (90.0, -10.0), (90.0, -90.0), (90.0, -38.0)


class Camera(NamedTuple):
    """MuJoCo's free camera: it looks at the point lookat (x, y, z), m, from a distance, m; angles in degrees."""

    lookat: tuple[float, float, float]
    distance: float
    azimuth: float
    elevation: float

    @property
    def axes(self) -> np.ndarray:
        """Its directions right, up and forward in the world, rows of [3, 3]; not to be written to."""
        return _axes(self.azimuth, self.elevation)

    @property
    def position(self) -> np.ndarray:
        """Where it stands, [3]."""
        return np.array(self.lookat) - self.distance * self.axes[2]

    def project(self, points: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        """Where points [..., 3] are in a picture: pixels [..., 2], x rightwards and y downwards from its upper left
        corner, and their distance [...] along the view; meaningless pixels where that is not above 0.
        """
        right, up, depth = np.moveaxis((points - self.position) @ self.axes.T, -1, 0)
        scale = focal_length(height) / np.where(depth > 0, depth, np.inf)
        return np.stack([width / 2 + scale * right, height / 2 - scale * up], axis=-1), depth


@lru_cache(maxsize=16)
def _axes(azimuth: float, elevation: float) -> np.ndarray:
    azimuth, elevation = np.deg2rad([azimuth, elevation])
    forward = [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)]
    up = [-np.sin(elevation) * np.cos(azimuth), -np.sin(elevation) * np.sin(azimuth), np.cos(elevation)]
    axes = np.stack([np.cross(forward, up), up, forward])
    axes.flags.writeable = False
    return axes


def focal_length(height: int) -> float:
    """Of a picture of so many pixels in height, in pixels."""
    return height / 2 / np.tan(np.deg2rad(FIELD_OF_VIEW) / 2)


def view(model: mujoco.MjModel) -> tuple[float, float]:
    """Azimuth and elevation, degrees, from which the motion of a model is best seen."""
    if not model.njnt or not np.isin(model.jnt_type, (mujoco.mjtJoint.mjJNT_HINGE, mujoco.mjtJoint.mjJNT_SLIDE)).all():
        return OBLIQUE
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    turns = model.jnt_type == mujoco.mjtJoint.mjJNT_HINGE
    for normal, angles in (((0, 1, 0), SIDE), ((0, 0, 1), TOP)):
        along = np.abs(data.xaxis @ normal)
        if np.allclose(along, turns, atol=1e-6):  # hinges turn about the normal, slides keep to the plane
            return angles
    return OBLIQUE


def framed(points: np.ndarray, angles: tuple[float, float], aspect: float) -> Camera:
    """The nearest camera, at azimuth and elevation `angles`, that has all points [n, 3] in its picture, in the middle.

    aspect: width by height of the picture.
    """
    slope = np.tan(np.deg2rad(FIELD_OF_VIEW) / 2)
    camera = Camera(tuple(points.mean(0).tolist()), 0.0, *angles)
    axes = camera.axes
    for _ in range(20):  # what is nearer is larger, so that the middle depends on the distance
        right, up, depth = ((points - camera.lookat) @ axes.T).T
        distance = float((np.maximum(np.abs(up) / slope, np.abs(right) / (slope * aspect)) - depth).max())
        seen = np.stack([right, up], axis=-1) / np.maximum(distance + depth, 1e-9)[:, None]
        aside = distance * (seen.min(0) + seen.max(0)) / 2
        camera = camera._replace(lookat=tuple((camera.lookat + aside @ axes[:2]).tolist()), distance=distance)
    return camera
