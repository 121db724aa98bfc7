"""Pictures of environments that draw themselves: of the episodes that were sampled, at the time steps shown."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image, ImageSequence

from mmaml.algorithms.promp import ProMP
from mmaml.cli import visualize
from mmaml.config.keys import Config
from mmaml.envs.base import Task, TaskVectorEnv
from mmaml.errors import UsageError
from mmaml.figures.panels import describe
from mmaml.figures.rendered_panels import RenderedPanels, is_picture
from tests.helpers.pictures import evaluated
from tests.helpers.support import run, small_config

HERE = __name__
HEIGHT, WIDTH = 40, 80
LIMITS = (0.25, 2.0)  # episodes of the second task rarely end


class Drawn(gym.Env):
    """A point pushed by its actions, ended by the task's limit. A picture's colour says which step it shows, and where.

    Observation: position, steps. Red is the number of steps, green the position, blue the limit.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}
    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    num_modes = 2

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def sample_tasks(self, n: int, rng: np.random.Generator) -> list[dict[str, Any]]:
        return [{"mode": k % 2, "limit": LIMITS[k % 2], "kind": "near"} for k in range(n)]

    def set_task(self, task: dict[str, Any]) -> None:
        self.limit = task["limit"]

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.position, self.steps = self.np_random.uniform(-0.2, 0.2), 0
        return self.observe(), {}

    def step(self, action: np.ndarray) -> Any:
        self.position += 0.3 * float(action[0]) + self.np_random.normal(scale=0.1)
        self.steps += 1
        return self.observe(), self.position, abs(self.position) > self.limit, False, {}

    def observe(self) -> np.ndarray:
        return np.array([self.position, self.steps], np.float32)

    def render(self) -> Any:
        if self.render_mode != "rgb_array":
            return None
        return picture_of(self.position, self.steps, self.limit)


def picture_of(position: float, steps: int, limit: float) -> np.ndarray:
    """The picture of a state."""
    colour = [10 * steps, np.clip(120 + 20 * position, 0, 255), 100 * limit]
    return np.full((HEIGHT, WIDTH, 3), colour, float).astype(np.uint8)


class Block(TaskVectorEnv):
    """The same as arrays, without randomness; `render` returns a picture of each lane."""

    num_modes = 2

    def __init__(self, num_tasks: int = 1, rollouts_per_task: int = 1) -> None:
        super().__init__(num_tasks, rollouts_per_task, Drawn.observation_space, Drawn.action_space)
        self.state = np.zeros((self.num_envs, 2), np.float32)

    def step(self, actions: np.ndarray) -> Any:
        self.state += np.concatenate([0.3 * np.clip(actions, -1, 1), np.ones_like(actions)], axis=1)
        ended = np.abs(self.state[:, 0]) > self.limit
        return self._observe(), self.state[:, 0].copy(), ended, np.zeros(self.num_envs, bool), {}

    def render(self) -> Any:
        return tuple(picture_of(float(x), int(t), limit) for (x, t), limit in zip(self.state, self.limit, strict=True))

    def _draw_tasks(self, n: int, rng: np.random.Generator, split: str) -> list[Task]:
        return [Task(k % 2, {"limit": LIMITS[k % 2]}) for k in range(n)]

    def _set_tasks(self, tasks: Any) -> None:
        self.limit = self._per_lane(tasks, "limit", ())

    def _reset_lanes(self, task: int, lanes: np.ndarray, rng: np.random.Generator) -> None:
        self.state[lanes] = 0

    def _observe(self) -> np.ndarray:
        return self.state.copy()


def config_of(env: str, algorithm: str = "promp", **overrides: Any) -> Config:
    return small_config(algorithm, env=f"{HERE}:{env}", max_path_length=9, rollouts_per_meta_task=5, **overrides)


def panels_of(config: Config, times: Any = range(10)) -> tuple[RenderedPanels, list[Any]]:
    """The panels, and the rollouts that an evaluation with the same parameters makes."""
    state, rollouts = evaluated(config, 3)
    panels = RenderedPanels(config, state, 3, "test", WIDTH)
    panels.prepare(times)
    return panels, rollouts


def colour(image: Image.Image) -> np.ndarray:
    return np.asarray(image)[HEIGHT // 2, WIDTH // 2]


@pytest.mark.parametrize("env", ["Drawn", "Block"])
def test_the_pictures_are_those_of_the_episodes_of_an_evaluation(env: str) -> None:
    panels, rollouts = panels_of(config_of(env))
    assert (panels.width, panels.height) == (WIDTH, HEIGHT)
    assert panels.names == ["mode 0", "mode 1"] and panels.lengths.shape == (2, 3)
    for stage, data in enumerate(rollouts):
        episode = data.episode(0, 9)
        for task in range(2):
            length = int(panels.lengths[task, stage])
            returns = (episode.rewards[task] * episode.mask[task]).sum(-1).numpy()
            lane = int(np.abs(returns - returns.mean()).argmin())
            assert length == episode.mask[task, lane].sum()
            assert panels.ended[task, stage] == (length < 9)
            positions = episode.observations[task, lane, :length, 0].tolist()
            for time, position in enumerate(positions):
                expected = picture_of(position, time, LIMITS[task])[0, 0]
                np.testing.assert_array_equal(colour(panels.picture(task, stage, time)), expected)
            for time in (length, length + 1, 100):  # the end, though no next observation of it was kept
                assert colour(panels.picture(task, stage, time))[0] == 10 * length
    assert panels.ended.any()


def test_only_what_is_shown_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    original = Drawn.render

    def counted(self: Drawn) -> Any:
        drawn.append(self.steps)
        return original(self)

    monkeypatch.setattr(Drawn, "render", counted)
    panels, _ = panels_of(config_of("Drawn"), times=[0, 4, 9])
    shown = [
        time
        for length in panels.lengths.ravel().tolist()
        for time in range(10)
        if time in (0, length) or time == 4 < length
    ]
    assert sorted(drawn[1:]) == sorted(shown)  # after the one that shows that there are pictures
    for stage in range(3):
        length = int(panels.lengths[0, stage])
        assert colour(panels.picture(0, stage, min(3, length - 1)))[0] == 0  # the last picture before that time


def test_the_episodes_of_a_trial_are_drawn_each_from_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProMP, "credit", "trial")
    panels, (data,) = panels_of(config_of("Drawn").replace(episodes_per_trial=3))
    assert panels.by_episode and data.rewards.shape[2] == 27
    for number in range(3):
        for task in range(2):
            seen = [int(colour(panels.picture(task, number, time))[0]) for time in range(10)]
            assert seen == [10 * min(time, int(panels.lengths[task, number])) for time in range(10)]


def gif(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)])


@pytest.mark.parametrize("env", ["Drawn", "Block"])
def test_the_command_writes_films_and_a_sheet(env: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(config_of(env, dump_path=str(tmp_path / "run"), n_itr=1))
    capsys.readouterr()
    assert visualize.main([str(tmp_path / "run"), "--width", "100"]) == 0
    files = [tmp_path / "run" / f"policy.{kind}" for kind in ("gif", "mp4", "png")]
    assert capsys.readouterr() == ("".join(f"{file}\n" for file in files), "")
    frames = gif(files[0])
    assert len(frames) == 10 and (frames[0] != frames[-1]).any()
    assert all(os.path.getsize(file) > 1000 for file in files)
    with Image.open(files[2]) as sheet:
        assert sheet.width > 6 * 100 and sheet.height > 4 * 50


class NotDrawn(Drawn):
    def render(self) -> Any:
        raise NotImplementedError


class DrawnNever(Drawn):
    def __init__(self) -> None:
        super().__init__("human")


class DrawnAsText(Drawn):
    def render(self) -> Any:
        return "a picture"


class DrawnByNumbers(Drawn):
    def render(self) -> Any:
        return np.zeros((4, 4))


class DrawnWithoutScreen(Drawn):
    def render(self) -> Any:
        raise OSError("no display")


class WithoutMode(Drawn):
    def __init__(self, render_mode: str | None = None) -> None:
        if render_mode is not None:
            raise ValueError(f"no {render_mode}")


@pytest.mark.parametrize(
    ("env", "problem"),
    [
        ("NotDrawn", "which has no render()"),
        ("DrawnNever", "whose render() returns None"),
        ("DrawnAsText", "whose render() returns 'a picture'"),
        ("DrawnByNumbers", "whose render() returns a float64 array of shape (4, 4)"),
        ("DrawnWithoutScreen", "whose render() fails (OSError: no display)"),
        ("WithoutMode", "which cannot be built with {'render_mode': 'rgb_array'} (ValueError: no rgb_array)"),
    ],
)
def test_an_environment_without_pictures_is_refused_in_a_line(
    env: str, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(config_of(env, dump_path=str(tmp_path / "run"), n_itr=1))
    capsys.readouterr()
    assert visualize.main([str(tmp_path / "run")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    expected = "a run on a MuJoCo family, Meta-World, the point mass, a grid or an environment that draws itself"
    assert err.startswith(f"error: RUN: expected {expected}")
    assert f"got one on '{HERE}:{env}', {problem}; have its __init__ take render_mode=\"rgb_array\"" in err


def test_no_family_of_the_toolkit_is_to_be_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(small_config("promp", env="CartPoleMassEnv", dump_path=str(tmp_path / "run"), n_itr=1))
    capsys.readouterr()
    assert visualize.main([str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.endswith("got one on 'CartPoleMassEnv', which has no render()\n")


class DrawnAtFirst(Drawn):
    def render(self) -> Any:
        return super().render() if self.steps < 3 else None


def test_pictures_that_end_are_named_with_the_step() -> None:
    with pytest.raises(UsageError, match=r"DrawnAtFirst: render: returns None at step 3 of an episode; have its"):
        panels_of(config_of("DrawnAtFirst"))


class DrawnByDefault(Drawn):
    """Draws without being asked to."""

    def __init__(self, **options: Any) -> None:
        if options:
            raise TypeError("takes none")
        super().__init__("rgb_array")


class DrawnOnRequest(Drawn):
    def __init__(self, size: int, **options: Any) -> None:
        super().__init__(**options)
        self.size = size


class Coarse(Drawn):
    """Of two pixels, white and black."""

    def render(self) -> Any:
        return np.array([[[255] * 3, [0] * 3]], np.uint8)


@pytest.mark.parametrize(
    ("env", "env_kwargs"),
    [("DrawnByDefault", {}), ("DrawnOnRequest", {"size": 3}), ("Drawn", {"render_mode": "human"})],
)
def test_the_render_mode_is_given_where_it_may_be(env: str, env_kwargs: dict[str, Any]) -> None:
    panels, _ = panels_of(config_of(env, env_kwargs=env_kwargs))
    assert colour(panels.picture(0, 0, 0))[2] == 25


def test_coarse_pictures_are_enlarged_pixel_by_pixel() -> None:
    panels, _ = panels_of(config_of("Coarse"))
    image = np.asarray(panels.picture(0, 0, 0))
    assert image.shape == (WIDTH // 2, WIDTH, 3)
    assert (image[:, : WIDTH // 2] == 255).all() and (image[:, WIDTH // 2 :] == 0).all()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.zeros((2, 3, 3), np.uint8), True),
        (np.zeros((2, 3, 4), np.uint8), False),
        (np.zeros((2, 3), np.uint8), False),
        (np.zeros((0, 3, 3), np.uint8), False),
        (np.zeros((2, 3, 3)), False),
        ([np.zeros((2, 3, 3), np.uint8)], False),
        (None, False),
    ],
)
def test_what_a_picture_is(value: Any, expected: bool) -> None:
    assert is_picture(value) == expected


def test_tasks_of_any_kind_are_described() -> None:
    values = {"mode": 1, "goal": np.array([1.0, -2.0]), "kind": "near", "map": np.zeros(9), "on": True}
    assert describe(Task(1, values), "mode 1") == "goal (1.00, −2.00), kind 'near', on 1.00"
    assert describe(Task(1, values), "near") == "goal (1.00, −2.00), on 1.00"
