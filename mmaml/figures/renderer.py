"""Pictures of MuJoCo models by MuJoCo's own renderer, without a screen."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Sequence
from copy import copy
from pathlib import Path

import mujoco
import numpy as np

from mmaml.figures.camera import Camera
from mmaml.figures.ray_caster import Marker

BACKENDS = ("egl", "osmesa")  # on a GPU (or Mesa's EGL); Mesa's, which needs no device
_PROBE = "from mmaml.figures.renderer import Renderer; import mujoco; Renderer(mujoco.MjSpec().compile(), 8, 8, '{}')"


def usable_backend() -> str | None:
    """The first of `BACKENDS` that works here, or None. If the variable MUJOCO_GL names one, only that is tried.

    Each is tried in a separate process, because an incomplete graphics library may crash it.
    """
    wished = os.environ.get("MUJOCO_GL", "").lower()
    for backend in (wished,) if wished in BACKENDS else BACKENDS:
        environment = os.environ | {"MUJOCO_GL": "disable"}
        command = [sys.executable, "-c", _PROBE.format(backend)]
        try:
            tried = subprocess.run(
                command, cwd=Path(__file__).parents[2], env=environment, capture_output=True, timeout=60
            )
        except subprocess.TimeoutExpired:
            continue
        if tried.returncode == 0:
            return backend
    return None


class Renderer:
    """Renders states of a model. width, height: of the pictures, in pixels. backend: one of `BACKENDS`."""

    def __init__(self, model: mujoco.MjModel, width: int, height: int, backend: str) -> None:
        self.model = model = copy(model)
        self.width, self.height = width, height
        model.vis.global_.offwidth, model.vis.global_.offheight = width, height
        # Without a GPU, shadows and reflections take most of the time.
        model.vis.quality.shadowsize, model.vis.quality.offsamples = 1024, 4
        model.vis.headlight.ambient[:] = 0.2  # some models have no light
        os.environ["MUJOCO_GL"] = backend  # MuJoCo uses it to find the functions of OpenGL
        self._gl = importlib.import_module(f"mujoco.{backend}").GLContext(width, height)
        self._gl.make_current()
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene = mujoco.MjvScene(model, maxgeom=model.ngeom + 200)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        self._data, self._option = mujoco.MjData(model), mujoco.MjvOption()

    def draw(self, qpos: np.ndarray, camera: Camera, markers: Sequence[Marker] = ()) -> np.ndarray:
        """A picture of the model at positions qpos [nq], with markers, uint8 [height, width, 3]."""
        self._gl.make_current()  # there may be renderers of other models
        self._data.qpos[:] = qpos
        mujoco.mj_forward(self.model, self._data)
        free = mujoco.MjvCamera()
        free.lookat[:] = camera.lookat
        free.distance, free.azimuth, free.elevation = camera.distance, camera.azimuth, camera.elevation
        everything, nothing = mujoco.mjtCatBit.mjCAT_ALL, mujoco.MjvPerturb()
        mujoco.mjv_updateScene(self.model, self._data, self._option, nothing, free, everything, self._scene)
        for marker in markers:
            self._add(marker)
        picture = np.empty((self.height, self.width, 3), np.uint8)
        frame = mujoco.MjrRect(0, 0, self.width, self.height)
        mujoco.mjr_render(frame, self._scene, self._context)
        mujoco.mjr_readPixels(picture, None, frame, self._context)
        return picture[::-1]

    def close(self) -> None:
        """Release the graphics context."""
        self._context.free()
        self._gl.free()

    def _add(self, marker: Marker) -> None:
        """Add a marker to the scene."""
        sphere, size = mujoco.mjtGeom.mjGEOM_SPHERE, np.full(3, marker.radius)
        colour = np.array([*marker.colour, 255], np.float32) / 255
        position = np.asarray(marker.position, np.float64)
        mujoco.mjv_initGeom(self._scene.geoms[self._scene.ngeom], sphere, size, position, np.eye(3).ravel(), colour)
        self._scene.geoms[self._scene.ngeom].emission = 0.3
        self._scene.ngeom += 1
