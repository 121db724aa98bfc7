"""The camera for pictures of MuJoCo models: MuJoCo's free camera, its projection, and how to frame a scene."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import mujoco
import numpy as np

FIELD_OF_VIEW = 45.0  # vertical, degrees; MuJoCo's default
# Azimuth and elevation, degrees. Bodies that move in a vertical plane along x are seen from the side, those that move
# in a horizontal plane from above, all others obliquely, so that both height and path are visible.
SIDE, TOP, OBLIQUE = (90.0, -10.0), (90.0, -90.0), (90.0, -38.0)


class Camera(NamedTuple):
    """MuJoCo's free camera. lookat: the point (x, y, z) it looks at, m. distance: from it, m. Angles in degrees."""

    lookat: tuple[float, float, float]
    distance: float
    azimuth: float
    elevation: float

    @property
    def axes(self) -> np.ndarray:
        """Its directions right, up and forward in world coordinates: the rows of [3, 3]. Read-only."""
        return _axes(self.azimuth, self.elevation)

    @property
    def position(self) -> np.ndarray:
        """Its position, [3], m."""
        return np.array(self.lookat) - self.distance * self.axes[2]

    def project(self, points: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        """Project points [..., 3] into a picture.

        Returns pixels [..., 2], x to the right and y down from the upper left corner, and depths [...], m. Pixels are
        meaningless where the depth is not above 0.
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
    """The focal length, in pixels, of a picture with `height` pixels."""
    return height / 2 / np.tan(np.deg2rad(FIELD_OF_VIEW) / 2)


def view(model: mujoco.MjModel) -> tuple[float, float]:
    """Azimuth and elevation, degrees, from which the motion of a model is seen best."""
    if not model.njnt or not np.isin(model.jnt_type, (mujoco.mjtJoint.mjJNT_HINGE, mujoco.mjtJoint.mjJNT_SLIDE)).all():
        return OBLIQUE
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    turns = model.jnt_type == mujoco.mjtJoint.mjJNT_HINGE
    for normal, angles in (((0, 1, 0), SIDE), ((0, 0, 1), TOP)):
        along = np.abs(data.xaxis @ normal)
        if np.allclose(along, turns, atol=1e-6):  # hinges turn about the normal, slides stay in the plane
            return angles
    return OBLIQUE


def framed(points: np.ndarray, angles: tuple[float, float], aspect: float) -> Camera:
    """The nearest camera, at azimuth and elevation `angles`, whose picture shows all points [n, 3], centred.

    aspect: width / height of the picture.
    """
    slope = np.tan(np.deg2rad(FIELD_OF_VIEW) / 2)
    camera = Camera(tuple(points.mean(0).tolist()), 0.0, *angles)
    axes = camera.axes
    for _ in range(20):  # nearer points appear larger, so the centre depends on the distance
        right, up, depth = ((points - camera.lookat) @ axes.T).T
        distance = float((np.maximum(np.abs(up) / slope, np.abs(right) / (slope * aspect)) - depth).max())
        seen = np.stack([right, up], axis=-1) / np.maximum(distance + depth, 1e-9)[:, None]
        aside = distance * (seen.min(0) + seen.max(0)) / 2
        camera = camera._replace(lookat=tuple((camera.lookat + aside @ axes[:2]).tolist()), distance=distance)
    return camera
