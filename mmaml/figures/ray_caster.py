"""Pictures of MuJoCo models without graphics libraries: NumPy casts rays at spheres, capsules, cylinders and boxes.

Each geom is intersected, in its own frame, with the rays of the pixels around it, and painted where it is nearer than
what was painted before. The ground is painted first and hides nothing. A picture takes some hundredths of a second,
with meshes, at which MuJoCo casts the rays, some tenths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import mujoco
import numpy as np

from mmaml.figures.camera import Camera, focal_length
from mmaml.figures.ray_meshes import Meshes

SAMPLES = 2  # rays per pixel, in each direction
SKY, HAZE = np.array([[255.0, 255, 255], [226, 234, 242]])  # the background: at its top, and at the horizon
TILES = np.array([[222.0, 226, 230], [203, 209, 215]])
TILES_AWAY = 8  # the distance of the camera, in tiles, approximately
SHADOW = 0.72
LIGHT = np.array([-0.35, -0.45, 0.82]) / np.linalg.norm([-0.35, -0.45, 0.82])  # the direction of the light
PAINTED_OTHERWISE = (mujoco.mjtGeom.mjGEOM_PLANE, mujoco.mjtGeom.mjGEOM_MESH)
# MuJoCo shows the first three groups of geoms; geoms of other groups only collide.
GROUPS = 3


class Marker(NamedTuple):
    """A sphere that is not part of the model. position [3] and radius in m; colour: red, green, blue in 0 … 255."""

    position: np.ndarray
    radius: float
    colour: tuple[int, int, int]


class _Shape(NamedTuple):
    """kind: "ellipsoid", "capsule", "cylinder" or "box". half: sizes from the centre, [3]. centre: [3]. turn: rotation
    matrix, [3, 3]. colour: [3].
    """

    kind: str
    half: np.ndarray
    centre: np.ndarray
    turn: np.ndarray
    colour: np.ndarray


class Drawing:
    """Draws states of a model. width, height: of the pictures, pixels."""

    def __init__(self, model: mujoco.MjModel, width: int, height: int) -> None:
        self.model, self.width, self.height = model, width, height
        self._data = mujoco.MjData(model)
        self._ground = ground(model)
        self._meshes = Meshes(model, GROUPS)
        rows, columns = height * SAMPLES, width * SAMPLES
        focal = focal_length(rows)
        # A ray is forward + x · right + y · up. Single precision is faster.
        self._x = ((np.arange(columns) + 0.5 - columns / 2) / focal).astype(np.float32)[None, :]
        self._y = ((rows / 2 - np.arange(rows) - 0.5) / focal).astype(np.float32)[:, None]
        self._empty: tuple[Camera, np.ndarray] | None = None

    def draw(self, qpos: np.ndarray, camera: Camera, markers: Sequence[Marker] = ()) -> np.ndarray:
        """A picture of the model at positions qpos [nq], with markers, uint8 [height, width, 3]."""
        self._data.qpos[:] = qpos
        mujoco.mj_kinematics(self.model, self._data)
        bodies = self._geoms()
        if self._empty is None or self._empty[0] != camera:
            self._empty = camera, self._background(camera)
        image = self._empty[1].copy()
        if self._ground is not None:
            image[self._shadows(bodies, camera)] *= SHADOW
        depth = np.full(image.shape[:2], np.inf, np.float32)
        for shape in bodies + [_sphere(marker) for marker in markers]:
            self._paint(shape, camera, image, depth)
        if self._meshes.geoms.size:
            self._paint_meshes(camera, image, depth)
        return _pooled(image)

    def close(self) -> None:
        """Nothing to release."""

    def _geoms(self) -> list[_Shape]:
        model = self.model
        shown = (model.geom_group < GROUPS) & ~np.isin(model.geom_type, PAINTED_OTHERWISE)
        visible = [geom for geom in np.flatnonzero(shown).tolist() if geom_colour(model, geom)[3] > 0]
        return [_shape(model, self._data, geom) for geom in visible]

    def _background(self, camera: Camera) -> np.ndarray:
        """The sky, and the ground in tiles that fade with distance; float32 [rows, columns, 3]."""
        right, up, forward = camera.axes.astype(np.float32)
        height = self._y * up[2] + forward[2]  # [rows, 1]: the camera does not roll
        image = np.empty((self._y.size, self._x.size, 3), np.float32)
        image[:] = (HAZE + np.clip(height / 0.4, 0, 1) * (SKY - HAZE))[:, None]
        below = height[:, 0] < 0
        if self._ground is not None and below.any():
            y = self._y[below]
            away = np.float32(self._ground - camera.position[2]) / height[below]
            tile = tile_size(camera)
            odd = np.zeros((len(y), self._x.size), bool)
            for axis in (0, 1):
                start, steps = camera.position[axis] + away * (y * up[axis] + forward[axis]), away * right[axis]
                odd ^= (np.floor((start + steps * self._x) / tile) % 2).astype(bool)
            clear = np.exp(-np.square(away / (5 * camera.distance)))
            light, dark = (HAZE + clear * (colour - HAZE) for colour in TILES)
            image[below] = np.where(odd[..., None], dark[:, None], light[:, None])
        return image

    def _shadows(self, shapes: Sequence[_Shape], camera: Camera) -> np.ndarray:
        """Whether each ray meets the ground in a shadow, bool [rows, columns]."""
        shadow = np.zeros((self.height * SAMPLES, self.width * SAMPLES), bool)
        axes = camera.axes.astype(np.float32)
        for shape in shapes:
            corners = _corners(shape)
            cast = corners - (corners[:, 2:] - self._ground) / LIGHT[2] * LIGHT
            window = self._window(cast, camera)
            if window is None or (corners[:, 2] < self._ground).all():
                continue
            x, y = self._x[:, window[1]], self._y[window[0]]
            away = np.float32(self._ground - camera.position[2]) / (y * axes[1, 2] + axes[2, 2])
            eye, rays = _seen_from(shape, camera, x, y)
            start = [e + away * ray for e, ray in zip(eye, rays, strict=True)]
            distance, _ = _meet(shape, start, _turned(shape, LIGHT))
            shadow[window] |= (away > 0) & (distance > 0) & (distance < np.inf)
        return shadow

    def _paint(self, shape: _Shape, camera: Camera, image: np.ndarray, depth: np.ndarray) -> None:
        window = self._window(_corners(shape), camera)
        if window is None:
            return
        x, y = self._x[:, window[1]], self._y[window[0]]
        eye, rays = _seen_from(shape, camera, x, y)
        away, normal = _meet(shape, eye, rays)
        seen = (away > 0) & (away < depth[window])
        brightness = _brightness(normal, rays, _turned(shape, LIGHT))
        depth[window] = np.where(seen, away, depth[window])
        image[window] = np.where(
            seen[..., None], brightness[..., None] * shape.colour.astype(np.float32), image[window]
        )

    def _paint_meshes(self, camera: Camera, image: np.ndarray, depth: np.ndarray) -> None:
        boxes = np.concatenate([_corners(_shape(self.model, self._data, geom)) for geom in self._meshes.geoms.tolist()])
        window = self._window(boxes, camera)
        if window is None:
            return
        right, up, forward = camera.axes
        rays = self._x[:, window[1], None] * right + self._y[window[0], :, None] * up + forward
        away, normal, geom = self._meshes.meet(self._data, camera.position, rays)
        seen = away < depth[window]
        colours = np.array([255 * geom_colour(self.model, each)[:3] for each in range(self.model.ngeom)], np.float32)
        brightness = _brightness([*np.moveaxis(normal, -1, 0)], [*np.moveaxis(rays, -1, 0)], [*LIGHT])
        depth[window] = np.where(seen, away, depth[window])
        image[window] = np.where(seen[..., None], brightness[..., None] * colours[geom], image[window])

    def _window(self, points: np.ndarray, camera: Camera) -> tuple[slice, slice] | None:
        """The rays that may meet the convex hull of points [n, 3], as slices of rows and columns; None if none can."""
        columns, rows = self.width * SAMPLES, self.height * SAMPLES
        pixels, depth = camera.project(points, columns, rows)
        if (depth <= 0).all():
            return None
        if (depth <= 0).any():
            return slice(0, rows), slice(0, columns)
        left, top = np.maximum(np.floor(pixels.min(0)), 0).astype(int)
        right, bottom = np.minimum(np.ceil(pixels.max(0)), (columns, rows)).astype(int)
        return (slice(top, bottom), slice(left, right)) if top < bottom and left < right else None


def ground(model: mujoco.MjModel) -> float | None:
    """The height, m, of the first horizontal plane, or None."""
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    planes = np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE)
    heights = [data.geom_xpos[plane, 2] for plane in planes if data.geom_xmat[plane, 8] > 0.999]
    return float(heights[0]) if heights else None


def geom_colour(model: mujoco.MjModel, geom: int) -> np.ndarray:
    """Red, green, blue, alpha of a geom, [4] in 0 … 1: its own colour if it has one, else that of its material."""
    own, material = model.geom_rgba[geom], model.geom_matid[geom]
    return own if material < 0 or (own != [0.5, 0.5, 0.5, 1]).any() else model.mat_rgba[material]


def tile_size(camera: Camera) -> float:
    """The side of the ground's tiles, m: 1, 2 or 5 times a power of ten."""
    about = camera.distance / TILES_AWAY
    power = 10.0 ** np.floor(np.log10(about))
    return float(power * max(step for step in (1, 2, 5) if step * power <= about * (1 + 1e-9)))


def _form(model: mujoco.MjModel, geom: int) -> tuple[str, np.ndarray, np.ndarray]:
    """Kind, centre [3] in the geom's frame, half sizes [3]. Other kinds of geoms are drawn as their bounding boxes."""
    radius, length, _ = size = model.geom_size[geom]
    middle = np.zeros(3)
    match model.geom_type[geom]:
        case mujoco.mjtGeom.mjGEOM_SPHERE:
            return "ellipsoid", middle, np.full(3, radius)
        case mujoco.mjtGeom.mjGEOM_ELLIPSOID:
            return "ellipsoid", middle, size
        case mujoco.mjtGeom.mjGEOM_CAPSULE:
            return "capsule", middle, np.array([radius, radius, length + radius])
        case mujoco.mjtGeom.mjGEOM_CYLINDER:
            return "cylinder", middle, np.array([radius, radius, length])
        case mujoco.mjtGeom.mjGEOM_BOX:
            return "box", middle, size
    return "box", model.geom_aabb[geom, :3], model.geom_aabb[geom, 3:]


def _sphere(marker: Marker) -> _Shape:
    return _Shape("ellipsoid", np.full(3, marker.radius), marker.position, np.eye(3), np.array(marker.colour, float))


def _shape(model: mujoco.MjModel, data: mujoco.MjData, geom: int) -> _Shape:
    """A geom where it is; its bounding box, if it is of none of these kinds."""
    kind, offset, half = _form(model, geom)
    turn = data.geom_xmat[geom].reshape(3, 3)
    colour = 255 * geom_colour(model, geom)[:3]
    return _Shape(kind, half, data.geom_xpos[geom] + turn @ offset, turn, colour)


def _corners(shape: _Shape) -> np.ndarray:
    """The corners of the bounding box of a shape, [8, 3]."""
    signs = np.stack(np.meshgrid(*[[-1, 1]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    return shape.centre + (signs * shape.half) @ shape.turn.T


# The components of points or directions: numbers or arrays that broadcast with each other.
_Vector = Sequence[np.ndarray]


def _turned(shape: _Shape, vector: np.ndarray) -> _Vector:
    """A direction in world coordinates, rotated into the frame of a shape."""
    return list((shape.turn.T @ vector).astype(np.float32))


def _seen_from(shape: _Shape, camera: Camera, x: np.ndarray, y: np.ndarray) -> tuple[_Vector, _Vector]:
    """The start and the direction of the rays x [1, columns], y [rows, 1], in the frame of a shape."""
    right, up, forward = (_turned(shape, axis) for axis in camera.axes)
    rays = [x * right[axis] + y * up[axis] + forward[axis] for axis in range(3)]
    return _turned(shape, camera.position - shape.centre), rays


def _pooled(image: np.ndarray) -> np.ndarray:
    """The mean of the samples of each pixel, uint8."""
    samples = [image[row::SAMPLES, column::SAMPLES] for row in range(SAMPLES) for column in range(SAMPLES)]
    pixels = np.add.reduce(samples)
    return np.clip(pixels / SAMPLES**2 + 0.5, 0, 255).astype(np.uint8)


def _meet(shape: _Shape, start: _Vector, ray: _Vector) -> tuple[np.ndarray, _Vector]:
    """The distance at which rays first meet a shape, in units of their length, inf if they miss; the normals there.

    start, ray, normals: in the frame of the shape.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        distance, normal = _MEET[shape.kind](shape.half.astype(np.float32), start, ray)
    return np.where(np.isnan(distance), np.inf, distance), normal


def _meet_ellipsoid(half: np.ndarray, start: _Vector, ray: _Vector) -> tuple[np.ndarray, _Vector]:
    start = [component / h for component, h in zip(start, half, strict=True)]
    ray = [component / h for component, h in zip(ray, half, strict=True)]
    distance = _meet_ball(start, ray, 1.0)
    return distance, _unit([(s + distance * r) / h for s, r, h in zip(start, ray, half, strict=True)])


def _meet_capsule(half: np.ndarray, start: _Vector, ray: _Vector) -> tuple[np.ndarray, _Vector]:
    radius, end = half[0], half[2] - half[0]
    side = _meet_tube(start, ray, radius)
    height = start[2] + side * ray[2]
    tip = np.where(height > 0, end, -end)
    ball = _meet_ball([start[0], start[1], start[2] - tip], ray, radius)
    distance = np.where(np.abs(height) <= end, side, ball)
    x, y, z = (s + distance * r for s, r in zip(start, ray, strict=True))
    return distance, [x / radius, y / radius, (z - np.clip(z, -end, end)) / radius]


def _meet_cylinder(half: np.ndarray, start: _Vector, ray: _Vector) -> tuple[np.ndarray, _Vector]:
    radius, end = half[0], half[2]
    side = _meet_tube(start, ray, radius)
    height = start[2] + side * ray[2]
    lid = (np.where(height > 0, end, -end) - start[2]) / ray[2]
    on_side = np.abs(height) <= end
    on_lid = (start[0] + lid * ray[0]) ** 2 + (start[1] + lid * ray[1]) ** 2 <= radius**2
    distance = np.where(on_side, side, np.where(on_lid, lid, np.nan))
    x, y = (s + distance * r for s, r in zip(start[:2], ray[:2], strict=True))
    return distance, [on_side * x / radius, on_side * y / radius, ~on_side * np.sign(height)]


def _meet_box(half: np.ndarray, start: _Vector, ray: _Vector) -> tuple[np.ndarray, _Vector]:
    one = [(-h - s) / r for s, r, h in zip(start, ray, half, strict=True)]
    other = [(h - s) / r for s, r, h in zip(start, ray, half, strict=True)]
    enters = np.stack(np.broadcast_arrays(*map(np.minimum, one, other)))
    leaves = np.stack(np.broadcast_arrays(*map(np.maximum, one, other)))
    distance = enters.max(0)
    face = enters.argmax(0)
    normal = [np.where(face == axis, -np.sign(ray[axis]), 0.0) for axis in range(3)]
    return np.where(distance <= leaves.min(0), distance, np.nan), normal


def _meet_ball(start: _Vector, ray: _Vector, radius: float) -> np.ndarray:
    """Distance to a ball around the origin; NaN where the ray's line misses it."""
    a = ray[0] * ray[0] + ray[1] * ray[1] + ray[2] * ray[2]
    b = start[0] * ray[0] + start[1] * ray[1] + start[2] * ray[2]
    c = start[0] * start[0] + start[1] * start[1] + start[2] * start[2] - radius * radius
    return (-b - np.sqrt(b * b - a * c)) / a


def _meet_tube(start: _Vector, ray: _Vector, radius: float) -> np.ndarray:
    """Distance to an infinite tube along z; NaN where the ray's line misses it."""
    a = ray[0] * ray[0] + ray[1] * ray[1] + 1e-12  # not 0 for rays along the tube
    b = start[0] * ray[0] + start[1] * ray[1]
    c = start[0] * start[0] + start[1] * start[1] - radius * radius
    return (-b - np.sqrt(b * b - a * c)) / a


def _brightness(normal: _Vector, ray: _Vector, light: _Vector) -> np.ndarray:
    """How bright a surface appears: darker at edges, so that limbs stand out."""
    lit = 0.5 + 0.5 * (normal[0] * light[0] + normal[1] * light[1] + normal[2] * light[2])
    facing = -(normal[0] * ray[0] + normal[1] * ray[1] + normal[2] * ray[2])
    return (0.5 + 0.55 * lit) * np.clip(0.55 + 1.5 * facing, 0.6, 1)


def _unit(vector: _Vector) -> _Vector:
    length = np.sqrt(vector[0] ** 2 + vector[1] ** 2 + vector[2] ** 2)
    return [component / length for component in vector]


_MEET = {"ellipsoid": _meet_ellipsoid, "capsule": _meet_capsule, "cylinder": _meet_cylinder, "box": _meet_box}
