"""Moving pictures of a policy: the episodes that were sampled, drawn where they were, in files that can be opened."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
import pytest
from PIL import Image, ImageSequence

from mmaml.algorithms.promp import ProMP
from mmaml.config.keys import Config
from mmaml.envs.registry import make_family
from mmaml.evaluation import held_out
from mmaml.figures import mujoco_panels, recording, video
from mmaml.figures.grid_panels import GridPanels
from mmaml.figures.grid_paths import grid_paths
from mmaml.figures.mujoco_panels import MujocoPanels
from mmaml.figures.page import return_text
from mmaml.figures.panels import GOAL, Panels, PointMassPanels, vector
from mmaml.figures.ray_caster import Drawing
from mmaml.figures.recording import RecordedEpisodes
from mmaml.figures.trajectories import Trajectories
from tests.helpers.metaworld import needs_metaworld
from tests.helpers.pictures import evaluated
from tests.helpers.support import files_no_larger, run, small_config

SCRIPT = Path(__file__).parents[2] / "run_scripts" / "visualize_policy.py"
CHEETAH = "HalfCheetahRandDirecEnv"


@pytest.fixture
def visualize() -> Callable[..., int]:
    main = runpy.run_path(str(SCRIPT))["main"]
    return lambda *argv: main([str(argument) for argument in argv])


@pytest.fixture(scope="module")
def cheetah(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("visualize") / "cheetah"
    run(small_config(env=CHEETAH, dump_path=str(path), n_itr=1, num_inner_grad_steps=2))
    return path


@pytest.fixture(scope="module")
def point(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("visualize") / "point"
    run(small_config(env="MetaPointEnvWalls", dump_path=str(path), n_itr=1, num_inner_grad_steps=1))
    return path


def _gif(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)])


def _mp4(path: Path) -> np.ndarray:
    return np.stack(imageio.mimread(path, memtest=False))


def test_bodies_are_written_side_by_side_into_the_runs_folder(
    cheetah: Path, visualize: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert visualize("--restore_path", cheetah, "--renderer", "drawing", "--width", "120") == 0
    files = [cheetah / f"policy.{kind}" for kind in ("gif", "mp4", "png")]
    assert capsys.readouterr().out.splitlines() == [str(file) for file in files]
    gif, mp4, sheet = _gif(files[0]), _mp4(files[1]), np.asarray(Image.open(files[2]))
    height, width = 2 * (90 + video.CAPTION + video.GAP), video.LEFT + 3 * (120 + video.GAP)
    assert gif.shape == mp4.shape and len(gif) == 8  # a start and 7 steps; of 2 modes after 0, 1, 2 steps
    assert gif.shape[2] == width and height < gif.shape[1] < height + 120
    assert np.abs(gif.astype(int) - mp4).mean() < 8
    assert (gif[0] != gif[-1]).any() and gif.std() > 10 and (gif[:, 0, 0] == 255).all()
    assert sheet.shape[0] > 6 * 90 and sheet.shape[1] > 6 * 120


@needs_metaworld
def test_meta_worlds_arm_is_drawn_with_its_goal(tmp_path: Path, visualize: Callable[..., int]) -> None:
    run(small_config(env="Meta-World/ML10", dump_path=str(tmp_path), n_itr=1, max_path_length=4))
    assert visualize("--restore_path", tmp_path, "--renderer", "drawing", "--width", "100") == 0
    sheet = np.asarray(Image.open(tmp_path / "policy.png")).astype(int)
    assert sheet.shape[0] > 2 * 5 * 75  # of 5 test environments before and after a step
    arm = (sheet[..., 0] > 60) & (sheet[..., 1:].max(-1) < 40)  # dark red
    goals = (sheet[..., 0] > sheet[..., 1] + 50) & (sheet[..., 1] > sheet[..., 2] + 20)  # orange
    assert arm.mean() > 0.02 and goals.sum() > 50


def test_a_point_mass_and_other_settings(
    point: Path, tmp_path: Path, visualize: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    given = ("--num_adapt_steps", 0, "--every", 4, "--width", 101, "--output", tmp_path / "new" / "folder", "--fps", 10)
    assert visualize("--restore_path", point, *given) == 0
    gif, mp4 = _gif(tmp_path / "new/folder/policy.gif"), _mp4(tmp_path / "new/folder/policy.mp4")
    assert gif.shape == mp4.shape and len(gif) == 3  # of the 7 positions: 0, 4 and the last
    assert gif.shape[1] % 2 == gif.shape[2] % 2 == 0 and video.LEFT + 101 < gif.shape[2] < video.LEFT + 2 * 101
    assert not (point / "policy.gif").exists()
    with Image.open(tmp_path / "new/folder/policy.gif") as image:
        assert image.info["duration"] == 100 and image.info["loop"] == 0


@pytest.mark.parametrize("env", ["GridNavi", "KrazyWorld"])
def test_a_walk_on_a_board_moves_by_its_steps(env: str, tmp_path: Path, visualize: Callable[..., int]) -> None:
    run(small_config("promp", env=env, dump_path=str(tmp_path / "run"), n_itr=1, max_path_length=6))
    assert visualize("--restore_path", tmp_path / "run", "--width", 120, "--output", tmp_path / "film") == 0
    gif = _gif(tmp_path / "film" / "policy.gif")
    assert len(gif) == 7 and gif.shape[2] == video.LEFT + 2 * (120 + video.GAP)
    config, state = held_out.restore(tmp_path / "run")
    paths = grid_paths(recording.sampled_stages(config, state, config.rollouts_per_meta_task))
    panels = GridPanels(paths, 120, 6)
    moved = paths.cells[0][0]
    for time in range(len(moved) - 1):
        one, two = (np.asarray(panels.picture(0, 0, t)).astype(int) for t in (time, time + 1))
        assert (one != two).any()
    assert panels.picture(0, 0, 99) == panels.picture(0, 0, len(moved) - 1)
    assert panels.ended[0, 0] == (len(moved) < 6)


def test_other_step_sizes_change_what_follows_the_first_step(
    point: Path, tmp_path: Path, visualize: Callable[..., int]
) -> None:
    given = ("--restore_path", point, "--width", 100, "--every", 7, "--num_adapt_steps", 2)
    ends = []
    for name, rates in (("usual", ()), ("other", ("--inner_lr", 0.1, 5))):  # 0.1: the run's own
        assert visualize(*given, *rates, "--output", tmp_path / name) == 0
        ends.append(_gif(tmp_path / name / "policy.gif")[-1].astype(int))
    differs = np.abs(ends[0] - ends[1]).sum(axis=(0, 2)) > 100
    last_panels = video.LEFT + 2 * (100 + video.GAP)
    assert differs[last_panels:].any() and not differs[:last_panels].any()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "RUN: expected a run's directory, got nothing"),
        (["--restore_path", "{tmp}/none"], "got '{tmp}/none', which does not exist"),
        (
            ["--restore_path", "{run}", "--split", "ood"],
            f"--split: expected a split of '{CHEETAH}', which has train, test, got 'ood'",
        ),
        (["--restore_path", "{run}", "--every", "0"], "--every: expected a whole number ≥ 1, got 0"),
        (
            ["--restore_path", "{run}", "--num_adapt_steps", "-1"],
            "--num_adapt_steps: expected a whole number ≥ 0",
        ),
        (["--restore_path", "{run}", "--inner_lr", "0"], "--inner_lr: expected a number > 0 and ≤ 1e+30, got '0'"),
        (["--restore_path", "{run}", "--renderer", "opengl"], "--renderer"),
        (["--restore_path", "{run}", "--renderer", "mujoco"], "install libosmesa6, or give --renderer drawing"),
        (["--restore_path", "{run}", "--output", "{run}/params.json"], "--output: expected a directory, got the file"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    cheetah: Path,
    tmp_path: Path,
    visualize: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    expected: str,
) -> None:
    monkeypatch.setattr("mmaml.figures.renderer.usable_backend", lambda: None)
    places = {"tmp": tmp_path, "run": cheetah}
    capsys.readouterr()
    assert visualize(*(argument.format(**places) for argument in arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.startswith("error: ") and expected.format(**places) in captured.err


def test_a_family_without_a_body_is_refused(
    tmp_path: Path, visualize: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    still = tmp_path / "still"
    run(small_config("promp", env="tests.helpers.probes:Still", dump_path=str(still), n_itr=1))
    assert visualize("--restore_path", still) == 2
    assert "RUN: expected a run on a MuJoCo family, Meta-World, the point mass, a grid or" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["gif", "mp4", "png"])
def test_a_disk_that_is_full_leaves_the_pictures_before(kind: str, tmp_path: Path) -> None:
    path, page = tmp_path / f"policy.{kind}", np.random.default_rng(0).integers(0, 255, (80, 120, 3), np.uint8)
    frames = [Image.fromarray(page), Image.fromarray(255 - page)]
    write = {
        "gif": lambda: video.write_gif(frames, path, 20),
        "mp4": lambda: video.write_mp4(frames, path, 20),
        "png": lambda: video.write_png(frames[0], path),
    }[kind]
    write()
    before = path.read_bytes()
    with files_no_larger(5000), pytest.raises(OSError, match="ffmpeg: ended" if kind == "mp4" else "File too large"):
        write()
    assert path.read_bytes() == before and [*tmp_path.iterdir()] == [path]


# What is recorded.


def _recorded(config: Config) -> tuple[RecordedEpisodes, list[Any]]:
    """RecordedEpisodes, and the rollouts that an evaluation with the same parameters makes."""
    state, rollouts = evaluated(config, 3)
    return recording.record(config, state, 3, "test"), rollouts


def test_the_episodes_are_those_of_an_evaluation() -> None:
    config = small_config(env=CHEETAH, max_path_length=12, rollouts_per_meta_task=5)
    episodes, rollouts = _recorded(config)
    assert [task.mode for task in episodes.tasks] == [0, 1] and not episodes.ended.any()
    for step, data in enumerate(rollouts):
        for task, qpos in enumerate(row[step] for row in episodes.qpos):
            returns = data.rewards[task].sum(-1).numpy()
            lane = int(np.abs(returns - returns.mean()).argmin())  # the one nearest to their mean
            assert episodes.returns[task, step] == pytest.approx(returns[lane], abs=1e-4)
            assert qpos.shape == (13, episodes.family.model.nq)
            observed = np.concatenate([data.observations[task, lane], data.final_observations[task, lane, None]])
            np.testing.assert_array_equal(qpos[:, 1:].astype(np.float32), observed[:, :8])


def test_an_episode_that_ends_is_kept_as_far_as_it_goes() -> None:
    config = small_config(env="HopperRandParamsEnv", max_path_length=80, normalization_scale=1)
    episodes, rollouts = _recorded(config)
    assert episodes.ended.any() and len(episodes.tasks) == 4
    for step, data in enumerate(rollouts):
        ends = data.episode_end.numpy().argmax(-1) + 1
        for task, lengths in enumerate(ends):
            steps = len(episodes.qpos[task][step]) - 1
            assert steps in lengths and episodes.ended[task, step] == (steps < 80)
            lane = int(np.flatnonzero(lengths == steps)[0])
            start = data.observations[task, lane, 0, : episodes.family.model.nq - 1].numpy()
            if (lengths == steps).sum() == 1:
                np.testing.assert_array_equal(episodes.qpos[task][step][0, 1:].astype(np.float32), start)


# What is drawn.


class _Plain(Panels):
    """Blue panels of two tasks, one of which ends at step 3 of 9."""

    names, details, captions = ("mode 0", "mode 1"), ("", "goal 1.00"), (("return 1",), ("return 2",))
    lengths, ended = np.array([[3], [9]]), np.array([[True], [False]])
    width, height = 90, 70

    def picture(self, task: int, step: int, time: int) -> Image.Image:
        return Image.new("RGB", (self.width, self.height), (0, 0, 200))


def test_a_panel_pales_when_its_episode_has_ended() -> None:
    corners = [np.asarray(video.panel(_Plain(), 0, 0, time))[-5, 5] for time in (2, 3, 9)]
    assert (corners[0] == [0, 0, 200]).all()
    assert (corners[1] == corners[2]).all() and corners[1].min() > 100 and np.ptp(corners[1]) == 0
    assert (np.asarray(video.panel(_Plain(), 1, 0, 9))[-5, 5] == [0, 0, 200]).all()


def test_tasks_are_rows_and_adaptation_steps_columns() -> None:
    panels = _Plain()
    page = np.asarray(video.frame(panels, 9, "title")).astype(int)
    blue = (np.abs(page - [0, 0, 200]).max(-1) < 5) & (np.arange(page.shape[1]) > video.LEFT)
    rows, columns = (np.flatnonzero(blue.any(axis)) for axis in (1, 0))
    # The second panel alone, without its edge: the first has ended.
    assert len(rows) == panels.height - 2 and len(columns) == panels.width - 2
    one = np.asarray(video.panel(panels, 1, 0, 9)).astype(int)
    y, x = rows[0] - 1 - video.CAPTION, columns[0] - 1
    np.testing.assert_array_equal(page[y : y + len(one), x : x + panels.width], one)
    narrow, wide = (video.frame(panels, 9, "title " * n) for n in (1, 20))
    assert wide.size[0] == narrow.size[0] and wide.size[1] > narrow.size[1]  # a long title takes more lines


@pytest.mark.parametrize(
    ("every", "length", "expected"),
    [(None, 9, [*range(10)]), (4, 9, [0, 4, 8, 9]), (3, 9, [0, 3, 6, 9]), (None, 250, [*range(0, 250, 3), 250])],
)
def test_times_of_frames(every: int | None, length: int, expected: list[int]) -> None:
    panels = _Plain()
    panels.lengths = np.array([[3], [length]])
    assert video.frame_times(panels, every) == expected


def test_numbers_are_written_as_signs_and_digits() -> None:
    assert [return_text(value) for value in (-1234.4, 99.94, -0.01)] == ["return −1234", "return 99.9", "return 0.0"]
    assert vector(np.array([1.0, -2.345])) == "(1.00, −2.35)" and vector(np.float64(-0.001)) == "0.00"


def _episodes(name: str, shift: float, **env_kwargs: Any) -> RecordedEpisodes:
    """One task a mode, two collections of 5 steps in which the body at rest is carried `shift` along x."""
    family: Any = make_family(name, **env_kwargs)
    tasks = family.sample_tasks(40, np.random.default_rng(0))
    tasks = list({task.mode: task for task in tasks}.values())
    qpos = np.tile(family.model.qpos0, (6, 1))
    qpos[:, 0] += np.linspace(0, shift, 6)
    shape = (len(tasks), 2)
    return RecordedEpisodes(family, tasks, [[qpos, qpos] for _ in tasks], np.zeros(shape), np.zeros(shape, bool))


def _near(image: Image.Image, pixel: np.ndarray, colour: tuple[int, int, int], tolerance: int = 60) -> bool:
    """Whether a colour is found within 2 pixels of a place."""
    x, y = pixel.astype(int)
    area = np.asarray(image).astype(int)[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3]
    return bool((np.abs(area - colour).max(-1) < tolerance).any())


def test_all_bodies_and_goals_share_one_picture_where_they_fit() -> None:
    episodes = _episodes("AntRandGoalModeEnv", 1.0)
    panels = MujocoPanels(episodes, 240)
    goals = np.stack([episodes.family.marker(task) for task in episodes.tasks])
    pixels, _ = panels._camera.project(goals, panels.width, panels.height)
    assert len(goals) == 4 and not panels._follows
    assert ((pixels > 0) & (pixels < [panels.width, panels.height])).all()
    for task in range(4):
        image = panels.picture(task, 0, 3)
        assert _near(image, pixels[task], GOAL) and not _near(image, pixels[task - 1], GOAL)
    assert panels.details[0] == f"goal {vector(episodes.tasks[0].values['goal'])}"


def test_the_camera_follows_a_body_that_goes_far() -> None:
    panels = MujocoPanels(_episodes(CHEETAH, 40.0), 240)
    assert panels._follows and panels._goals == [None, None]
    seen = []

    class Spy(Drawing):
        def draw(self, qpos: Any, camera: Any, markers: Any = ()) -> np.ndarray:
            seen.append(camera.lookat[0] - qpos[0])
            return super().draw(qpos, camera, markers)

    panels._artist = Spy(panels.episodes.family.model, 240, 180)
    for time in range(7):  # as at the last step, past it
        panels.picture(0, 0, time)
    np.testing.assert_allclose(seen, seen[0], atol=1e-6)
    assert panels.location(0, 0, 5) == "x 40.00 m  160.0 m/s"  # 40 m in 5 steps of 0.05 s
    assert panels.location(0, 0, 0) == "x 0.00 m  0.0 m/s"


def test_an_arrow_points_to_a_goal_out_of_sight() -> None:
    image = Image.new("RGB", (100, 80))
    mujoco_panels._point_to(image, np.array([400.0, 40.0]), np.array(5.0))
    orange = np.argwhere(np.abs(np.asarray(image).astype(int) - GOAL).max(-1) < 10)
    assert orange[:, 1].min() > 70 and abs(orange[:, 0].mean() - 40) < 1
    for pixel, away in (([60.0, 40.0], 5.0), ([400.0, 40.0], -5.0)):  # in sight; behind
        image = Image.new("RGB", (100, 80))
        mujoco_panels._point_to(image, np.array(pixel), np.array(away))
        assert not np.asarray(image).any()


def test_the_first_bodys_way_and_what_moves_are_measured() -> None:
    episodes = _episodes(CHEETAH, 2.0)
    model, qpos = episodes.family.model, episodes.qpos[0][0]
    np.testing.assert_allclose(
        np.diff(mujoco_panels.root_positions(model, qpos), axis=0), [[0.4, 0, 0]] * 5, atol=1e-12
    )
    one, both = mujoco_panels.extent(model, qpos[:1]), mujoco_panels.extent(model, qpos)
    np.testing.assert_allclose(np.ptp(both, axis=0) - np.ptp(one, axis=0), [2, 0, 0], atol=1e-12)
    assert one[:, 2].max() < 2  # the ground, which does not move, is not measured


def _trajectories() -> Trajectories:
    """Two tasks, one collection, two rollouts of 5 steps: to the right, and upwards with a break at step 2."""
    steps = np.arange(5.0)
    positions = np.stack([np.stack([steps, 0 * steps], -1), np.stack([0 * steps, steps], -1)])[None, None]
    connected = np.ones((2, 1, 2, 4), bool)
    connected[:, :, 1, 2] = False
    return Trajectories(
        np.concatenate([positions, positions]),
        connected,
        np.array([[4.0, 4.0], [-4.0, -4.0]]),
        np.array([[-3.0], [-5.0]]),
        ["mode 0", "mode 1"],
    )


def test_trajectories_grow_and_goals_are_marked() -> None:
    panels = PointMassPanels(_trajectories(), 200)
    place = lambda x, y: np.array([100 + x * 100 / (1.45 * 4), 100 - y * 100 / (1.45 * 4)])  # noqa: E731
    blue, goal = (62, 155, 214), place(4, 4)
    early, late = panels.picture(0, 0, 1), panels.picture(0, 0, 4)
    for image in (early, late):
        assert _near(image, goal, GOAL) and not _near(image, place(-4, -4), GOAL)
    assert not _near(early, place(2.5, 0), blue, 90) and _near(late, place(2.5, 0), blue, 90)
    assert not _near(late, place(0, 2.5), blue, 90) and _near(late, place(0, 3.5), blue, 150)  # the break
    assert _near(late, place(4, 0), (11, 60, 107)) and not _near(late, place(1, 0), (11, 60, 107))  # heads
    again = panels.picture(0, 0, 1)  # back in time
    np.testing.assert_array_equal(np.asarray(again), np.asarray(early))


def test_the_episodes_of_a_trial_are_those_that_were_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each from its own start, wherever in the lane that is; MAML's kin stands in for an algorithm that remembers."""
    monkeypatch.setattr(ProMP, "credit", "trial")
    config = small_config("promp", env=CHEETAH, max_path_length=12, rollouts_per_meta_task=5)
    config = config.replace(episodes_per_trial=3)
    episodes, (data,) = _recorded(config)
    assert episodes.by_episode and episodes.returns.shape == (2, 3) and data.rewards.shape[2] == 36
    assert data.episode_start[..., ::12].all() and data.episode_start.sum() == 2 * 5 * 3
    for number in range(3):
        steps = slice(12 * number, 12 * number + 12)
        for task, qpos in enumerate(row[number] for row in episodes.qpos):
            returns = data.rewards[task, :, steps].sum(-1).numpy()
            lane = int(np.abs(returns - returns.mean()).argmin())
            assert episodes.returns[task, number] == pytest.approx(returns[lane], abs=1e-4)
            observed = data.observations[task, lane, steps, :8].numpy()
            np.testing.assert_allclose(qpos[:-1, 1:], observed, atol=1e-5)
            assert len(qpos) == 13
