"""Pictures of MuJoCo models show each body where MuJoCo has it."""

from __future__ import annotations

from collections.abc import Iterator

import mujoco
import numpy as np
import pytest

from mmaml.envs.mujoco.base import compiled, load_spec
from mmaml.figures import ray_caster, renderer
from mmaml.figures.camera import FIELD_OF_VIEW, OBLIQUE, SIDE, TOP, Camera, framed, view
from mmaml.figures.ray_caster import LIGHT, SHADOW, Drawing, Marker
from mmaml.figures.renderer import Renderer, usable_backend

WIDTH, HEIGHT = 64, 48
CAMERA = Camera((0.1, -0.2, 0.3), 3.0, 70.0, -25.0)
COLOURS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1]])
GEOMS = """
<mujoco><worldbody>
  <geom type="sphere" size=".3" pos="-.8 0 .3" rgba="1 0 0 1"/>
  <geom type="capsule" size=".12 .3" pos="-.2 -.4 .4" euler="40 20 0" rgba="0 1 0 1"/>
  <geom type="cylinder" size=".2 .25" pos=".4 .3 .1" euler="-50 10 0" rgba="0 0 1 1"/>
  <geom type="box" size=".2 .1 .3" pos=".9 -.2 .4" euler="20 30 60" rgba="1 1 0 1"/>
  <geom type="ellipsoid" size=".35 .1 .2" pos="0 .2 .8" euler="0 30 50" rgba="0 1 1 1"/>
  <geom type="capsule" size=".05 .9" pos="0 -.3 .1" euler="0 80 10" rgba="1 0 1 1"/>
  <geom type="sphere" size=".5" pos="0 -.9 .3" rgba="1 1 1 0"/>
  <geom type="sphere" size=".5" pos="0 -.9 .3" rgba="1 1 1 1" group="3"/>
</worldbody></mujoco>"""
BOX = '<geom type="box" size=".2 .1 .3"'
TETRAHEDRON = '<asset><mesh name="tetrahedron" vertex="-.2 -.2 -.3  .4 0 -.2  0 .4 -.2  0 0 .5"/></asset>'
WITH_MESH = GEOMS.replace(BOX, '<geom type="mesh" mesh="tetrahedron"').replace("<mujoco>", f"<mujoco>{TETRAHEDRON}")
FALLING = """
<mujoco><worldbody>
  <geom type="plane" size="1 1 1" pos="0 0 -.2"/>
  <body><freejoint/><geom type="sphere" size=".15" rgba="0 0 1 1"/></body>
</worldbody></mujoco>"""


def model(xml: str) -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_string(xml)


def nearest(body: mujoco.MjModel, camera: Camera, directions: np.ndarray) -> np.ndarray:
    """Which geom the rays [n, 3] from the camera meet first, by MuJoCo: [n], -1 for none."""
    data, groups, found = mujoco.MjData(body), np.array([1, 1, 1, 0, 0, 0], np.uint8), np.zeros((1, 1), np.int32)
    mujoco.mj_forward(body, data)
    geoms = []
    for ray in directions:
        mujoco.mj_ray(body, data, camera.position, ray, groups, True, -1, found)
        geoms.append(found.item())
    return np.array(geoms)


def rays(camera: Camera, pixels: np.ndarray) -> np.ndarray:
    """Directions [n, 3] in which pixels [n, 2] are seen."""
    focal = HEIGHT / 2 / np.tan(np.deg2rad(FIELD_OF_VIEW / 2))
    x, y = (pixels[:, 0] - WIDTH / 2) / focal, (HEIGHT / 2 - pixels[:, 1]) / focal
    return np.stack([x, y, np.ones_like(x)], axis=-1) @ camera.axes


@pytest.mark.parametrize("angles", [SIDE, TOP, OBLIQUE, (-130.0, 35.0)])
def test_the_camera_is_mujocos(angles: tuple[float, float]) -> None:
    body = model(GEOMS)
    data, scene, free = mujoco.MjData(body), mujoco.MjvScene(body, 50), mujoco.MjvCamera()
    mujoco.mj_forward(body, data)
    camera = Camera((0.4, -0.3, 0.7), 2.5, *angles)
    free.lookat[:], free.distance, free.azimuth, free.elevation = camera.lookat, camera.distance, *angles
    mujoco.mjv_updateScene(body, data, mujoco.MjvOption(), mujoco.MjvPerturb(), free, mujoco.mjtCatBit.mjCAT_ALL, scene)
    np.testing.assert_allclose(np.mean([eye.pos for eye in scene.camera], axis=0), camera.position, atol=1e-6)
    np.testing.assert_allclose(scene.camera[0].forward, camera.axes[2], atol=1e-6)
    np.testing.assert_allclose(scene.camera[0].up, camera.axes[1], atol=1e-6)


def test_points_are_projected_along_the_view() -> None:
    pixels, depth = CAMERA.project(np.array(CAMERA.lookat), WIDTH, HEIGHT)
    np.testing.assert_allclose(pixels, [WIDTH / 2, HEIGHT / 2])
    assert depth == pytest.approx(3.0)
    right, up, forward = CAMERA.axes
    top = CAMERA.position + 2 * forward + 2 * np.tan(np.deg2rad(FIELD_OF_VIEW / 2)) * (up + right)
    np.testing.assert_allclose(CAMERA.project(top, WIDTH, HEIGHT)[0], [WIDTH / 2 + HEIGHT / 2, 0], atol=1e-9)
    assert CAMERA.project(CAMERA.position - forward, WIDTH, HEIGHT)[1] == pytest.approx(-1)


@pytest.mark.parametrize("angles", [SIDE, TOP, OBLIQUE])
def test_a_frame_is_filled_and_nothing_is_outside(angles: tuple[float, float]) -> None:
    points = np.random.default_rng(0).normal(size=(9, 3)) * [3, 1, 0.5]
    pixels, depth = framed(points, angles, WIDTH / HEIGHT).project(points, WIDTH, HEIGHT)
    assert (depth > 0).all()
    low, high = pixels.min(0), pixels.max(0)
    np.testing.assert_allclose(low + high, [WIDTH, HEIGHT], atol=0.1)
    assert max((high - low) / [WIDTH, HEIGHT]) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("file", "angles"), [("half_cheetah", SIDE), ("hopper", SIDE), ("reacher", TOP), ("swimmer", TOP), ("ant", OBLIQUE)]
)
def test_motion_in_a_plane_is_seen_at_a_right_angle(file: str, angles: tuple[float, float]) -> None:
    assert view(compiled(load_spec(f"{file}.xml"))) == angles


@pytest.mark.parametrize("xml", [GEOMS, WITH_MESH], ids=["shapes", "mesh"])
@pytest.mark.parametrize("camera", [CAMERA, CAMERA._replace(azimuth=200.0), Camera((0, 0, 0.3), 2.5, *TOP)])
def test_every_pixel_shows_the_nearest_geom(camera: Camera, xml: str) -> None:
    body = model(xml)
    picture = Drawing(body, WIDTH, HEIGHT).draw(body.qpos0, camera)
    pixels = np.stack(np.meshgrid(np.arange(0, WIDTH, 2), np.arange(0, HEIGHT, 2)), axis=-1).reshape(-1, 2)
    samples = ([0.25, 0.25], [0.25, 0.75], [0.75, 0.25], [0.75, 0.75])
    met = np.stack([nearest(body, camera, rays(camera, pixels + sample)) for sample in samples])
    inside = (met == met[0]).all(0)  # of one geom, or of the background
    colours = picture[pixels[:, 1], pixels[:, 0]].astype(float)
    shown = np.where(np.ptp(colours, axis=-1) > 100, (colours @ (2 * COLOURS.T - 1)).argmax(-1), -1)
    np.testing.assert_array_equal(shown[inside], met[0][inside])
    assert set(met[0]) >= {-1, 0, 1, 2, 3, 4} and inside.mean() > 0.7


def test_a_body_is_drawn_where_its_joints_put_it() -> None:
    body = model(FALLING)
    artist = Drawing(body, WIDTH, HEIGHT)
    for position in ([0.3, 0.1, 0.2], [-0.4, 0.3, 0.6]):
        blue = _blue(artist.draw(np.array([*position, 1, 0, 0, 0]), CAMERA))
        expected, _ = CAMERA.project(np.array(position), WIDTH, HEIGHT)
        np.testing.assert_allclose(np.argwhere(blue).mean(0)[::-1] + 0.5, expected, atol=0.4)


def _blue(picture: np.ndarray) -> np.ndarray:
    return picture[..., 2] > picture[..., :2].max(-1) + 60.0


def test_a_shadow_falls_on_the_ground_away_from_the_light() -> None:
    body = model(FALLING)
    artist = Drawing(body, WIDTH, HEIGHT)
    assert ray_caster.ground(body) == pytest.approx(-0.2)
    here, there = (artist.draw(np.array([x, 0, 0.4, 1, 0, 0, 0]), CAMERA).astype(float) for x in (0, 50))
    place = np.array([0, 0, 0.4]) - 0.6 / LIGHT[2] * LIGHT
    column, row = CAMERA.project(place, WIDTH, HEIGHT)[0].astype(int)
    np.testing.assert_allclose(here[row, column] / there[row, column], SHADOW, atol=0.02)
    assert ray_caster.ground(model(GEOMS)) is None


def test_the_ground_stays_where_it_is_when_the_camera_moves() -> None:
    body = model(FALLING)
    artist, gone = Drawing(body, WIDTH, HEIGHT), np.array([50, 0, 0, 1, 0, 0, 0])
    camera = Camera((0.0, 0.0, -0.2), 3.0, *TOP)
    tile, pixel = ray_caster.tile_size(camera), 3.0 * np.tan(np.deg2rad(FIELD_OF_VIEW / 2)) / (HEIGHT / 2)
    first = artist.draw(gone, camera)
    assert (first[:, WIDTH // 2 - 1] != first[:, WIDTH // 2]).any()  # the edge of a tile
    np.testing.assert_array_equal(first, artist.draw(gone, camera._replace(lookat=(2 * tile, 0.0, -0.2))))
    moved = artist.draw(gone, camera._replace(lookat=(4 * pixel, 0.0, -0.2)))
    assert np.abs(moved[:, :-4].astype(int) - first[:, 4:]).mean() < 0.5


def test_a_marker_is_where_the_goal_is() -> None:
    body, goal = model(FALLING), np.array([0.5, 0.4, 0.2])
    picture = Drawing(body, WIDTH, HEIGHT).draw(body.qpos0, CAMERA, [Marker(goal, 0.1, (213, 94, 0))])
    orange = picture[..., 0] > picture[..., 2] + 80.0
    expected, depth = CAMERA.project(goal, WIDTH, HEIGHT)
    np.testing.assert_allclose(np.argwhere(orange).mean(0)[::-1] + 0.5, expected, atol=0.3)
    radius = 0.1 / depth * HEIGHT / 2 / np.tan(np.deg2rad(FIELD_OF_VIEW / 2))
    assert orange.sum() == pytest.approx(np.pi * radius**2, rel=0.25)


def test_colours_are_the_geoms_own_or_their_materials() -> None:
    body = model(
        '<mujoco><asset><material name="m" rgba=".1 .2 .3 1"/></asset><worldbody><geom size="1" material="m"/>'
        '<geom size="1" material="m" rgba="1 0 0 1"/><geom size="1"/></worldbody></mujoco>'
    )
    colours = [ray_caster.geom_colour(body, geom) for geom in range(3)]
    np.testing.assert_allclose(colours, [[0.1, 0.2, 0.3, 1], [1, 0, 0, 1], [0.5, 0.5, 0.5, 1]], atol=1e-6)


@pytest.fixture
def own() -> Iterator[Renderer]:
    backend = usable_backend()
    if backend is None:
        pytest.skip("neither EGL nor OSMesa here")
    artist = Renderer(model(FALLING), WIDTH, HEIGHT, backend)
    yield artist
    artist.close()


def test_mujocos_renderer_shows_the_same(own: Renderer) -> None:
    qpos, marker = np.array([-0.4, 0.3, 0.6, 1, 0, 0, 0]), Marker(np.array([0.5, 0.4, 0.2]), 0.2, (213, 94, 0))
    drawn, rendered = (
        artist.draw(qpos, CAMERA, [marker]).astype(float) for artist in (Drawing(own.model, WIDTH, HEIGHT), own)
    )
    for mask in (_blue, lambda picture: picture[..., 0] > picture[..., 2] + 60.0):
        both, either = mask(drawn) & mask(rendered), mask(drawn) | mask(rendered)
        assert both.sum() > 10 and both.sum() / either.sum() > 0.7


def test_a_graphics_library_that_crashes_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(renderer, "_PROBE", "import os; os.abort()  # {}")
    assert usable_backend() is None
    monkeypatch.setattr(renderer, "_PROBE", "import os, sys; sys.exit('{}' != 'osmesa')")
    assert usable_backend() == "osmesa"
    monkeypatch.setenv("MUJOCO_GL", "egl")
    assert usable_backend() is None
