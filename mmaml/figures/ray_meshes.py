"""Where rays meet the meshes of a MuJoCo model."""

from __future__ import annotations

import mujoco
import numpy as np

FAR = 1e6  # m: beyond it, nothing is met
# Newer versions of MuJoCo can give normals, but older ones do not take the argument.
_NO_NORMALS = [None] if "normal" in (mujoco.mj_multiRay.__doc__ or "") else []


class Meshes:
    """The meshes of a model. geoms: their numbers. groups: so many groups of geoms are seen, from the first on."""

    def __init__(self, model: mujoco.MjModel, groups: int) -> None:
        self._model = model
        self._is_mesh = model.geom_type == mujoco.mjtGeom.mjGEOM_MESH
        self._groups = (np.arange(mujoco.mjNGROUP) < groups).astype(np.uint8)
        self.geoms = np.flatnonzero(self._is_mesh & (model.geom_group < groups))

    def meet(self, data: mujoco.MjData, start: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, ...]:
        """What rays [rows, columns, 3] from a point [3] meet first.

        Returns distances [rows, columns] in units of their lengths, inf where that is no mesh; unit normals
        [rows, columns, 3] that point to the side from which rays come, by the differences of neighbours; and the
        geoms' numbers [rows, columns].
        """
        rows, columns, _ = rays.shape
        lengths = np.linalg.norm(rays, axis=-1)
        directions = (rays / lengths[..., None]).astype(np.float64)
        geoms, distances = np.zeros(rows * columns, np.int32), np.zeros(rows * columns)
        mujoco.mj_multiRay(
            self._model, data, start, directions.ravel(), self._groups, True, -1, geoms, distances, *_NO_NORMALS,
            rows * columns, FAR,
        )  # fmt: skip
        geoms, distances = geoms.reshape(rows, columns), distances.reshape(rows, columns)
        met = (geoms >= 0) & self._is_mesh[geoms]
        normals = _normals(start + directions * distances[..., None])
        away_from_eye = (normals * directions).sum(-1, keepdims=True) > 0
        return np.where(met, distances / lengths, np.inf), np.where(away_from_eye, -normals, normals), geoms


def _normals(points: np.ndarray) -> np.ndarray:
    """Unit normals of a surface through points [rows, columns, 3]; 0 where it has none."""
    across, down = (_differences(points, axis) for axis in (1, 0))
    normals = np.cross(across, down)
    return normals / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-12)


def _differences(points: np.ndarray, axis: int) -> np.ndarray:
    return np.gradient(points, axis=axis) if points.shape[axis] > 1 else np.zeros_like(points)
