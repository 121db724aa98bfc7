"""Moving pictures of environments that are drawn while they are played: most by their own `render`."""

from __future__ import annotations

import dataclasses
import inspect
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from typing import Any, cast

import numpy as np
from PIL import Image, ImageOps

from mmaml.config.keys import Config
from mmaml.envs.base import TaskVectorEnv, close_quietly
from mmaml.envs.process_state import running
from mmaml.envs.registry import FAMILIES, make_family, source_of
from mmaml.envs.shown import shown
from mmaml.errors import UsageError, described
from mmaml.figures.page import return_text
from mmaml.figures.panels import NEAREST_TO_MEAN, Panels, describe
from mmaml.figures.recording import ChosenEpisodes, Recorder, RecordingWorker, choose_episodes, names_of

MODE = "rgb_array"  # Gymnasium's name of the render mode that returns pictures
REMEDY = f'have its __init__ take render_mode="{MODE}", and render() then return a uint8 array [height, width, 3]'
# By task and stage: steps since the start of the episode, and the picture then, in their order.
_Pictures = dict[tuple[int, int], list[tuple[int, Image.Image]]]


class PlayedPanels(Panels):
    """One episode in each panel, drawn as it is played.

    The episodes are sampled twice: to choose those that are shown, and to draw them. state: of a checkpoint. stages:
    K+1. split: of the tasks. size: of a panel, width and height in pixels.
    Raises UsageError for an environment whose episodes cannot be sampled or drawn.
    """

    def __init__(
        self, config: Config, state: Mapping[str, Any], stages: int, split: str, size: tuple[int, int]
    ) -> None:
        self._config, self._state, self._stages, self._split = config, state, stages, split
        self.width, self.height = size
        with closing(RecordingWorker(config, Recorder)) as worker:
            self._chosen = chosen = choose_episodes(worker, state, stages, split)
        assert config.env_spec is not None
        self.names = names_of(chosen.tasks, config.env_spec)
        self.details = [describe(task, name) for task, name in zip(chosen.tasks, self.names, strict=True)]
        self.captions = [[return_text(value) for value in row] for row in chosen.returns]
        self.lengths, self.ended, self.by_episode = chosen.lengths, chosen.ended, chosen.by_episode
        self.note = NEAREST_TO_MEAN
        self._drawn: _Pictures = {}

    @abstractmethod
    def draw(self, family: Any, lane: int) -> Any:
        """A picture of a lane as it stands, uint8 [height, width, 3]."""

    def prepare(self, times: Collection[int]) -> None:
        with closing(RecordingWorker(self._config, self._recorder(times))) as worker:
            choose_episodes(worker, self._state, self._stages, self._split)
            recorder = cast(_PictureRecorder, worker.recorder)
        if recorder.failure:
            raise UsageError(f"{self._config.env}: render", recorder.failure, REMEDY)
        self._drawn = recorder.pictures

    def picture(self, task: int, step: int, time: int) -> Image.Image:
        drawn = self._drawn[task, step]
        return drawn[bisect_right(drawn, time, key=lambda entry: entry[0]) - 1][1].copy()

    def _recorder(self, times: Collection[int]) -> Any:
        size = self.width, self.height
        return lambda family: _PictureRecorder(family, self.draw, self._chosen, times, size)


class RenderedPanels(PlayedPanels):
    """Drawn by the environment's own `render`. width: of a panel, pixels; its height follows from the pictures.

    Raises UsageError for an environment that draws none, too.
    """

    def __init__(self, config: Config, state: Mapping[str, Any], stages: int, split: str, width: int) -> None:
        config, picture = drawing_config(config)
        height, across, _ = picture.shape
        super().__init__(config, state, stages, split, (width, max(1, round(width * height / across))))

    def draw(self, family: Any, lane: int) -> Any:
        (picture,) = family.render_lanes([lane])
        return picture


class _PictureRecorder(Recorder):
    """Draws the chosen episodes at some of their time steps, and at their ends.

    draw: draws a lane of a family. size: of the pictures, width and height in pixels. failure: why there are no more
    pictures; "" if there are all.
    """

    def __init__(
        self,
        family: TaskVectorEnv,
        draw: Callable[[Any, int], Any],
        chosen: ChosenEpisodes,
        times: Collection[int],
        size: tuple[int, int],
    ) -> None:
        super().__init__(family)
        self._draw_lane = draw
        self._chosen, self._times, self._size = chosen, frozenset(times), size
        self._whole = family.num_tasks == len(chosen.tasks)  # not one of the parts in which failures are sought
        self.pictures: _Pictures = {}
        self.failure = ""

    def before_step(self) -> None:
        self._draw_due(starting=True)

    def after_step(self) -> None:
        self._draw_due(starting=False)

    def _draw_due(self, starting: bool) -> None:
        """Of episodes that start at this time, or of those that have started before."""
        chosen = self._chosen
        if not self._whole or self.failure:
            return
        for task, stage in np.ndindex(chosen.lanes.shape):
            if chosen.collection(stage) != self.collection:
                continue
            age, length = self.time - chosen.starts[task, stage], chosen.lengths[task, stage]
            due = age == 0 if starting else 0 < age <= length and (age in self._times or age == length)
            if due:
                self._add(task, stage, int(age))

    def _add(self, task: int, stage: int, age: int) -> None:
        try:
            with running(self.family.code_settings):
                picture = self._draw_lane(self.family, int(self._chosen.lanes[task, stage]))
        except (Exception, SystemExit) as error:  # a user's render may fail in any way
            self.failure = f"raises {described(error)} at step {age} of an episode"
            return
        if not is_picture(picture):
            self.failure = f"returns {shown(picture)} at step {age} of an episode"
            return
        self.pictures.setdefault((task, stage), []).append((age, _fitted(picture, self._size)))


def is_picture(value: Any) -> bool:
    """Whether it is what the render mode "rgb_array" returns."""
    return isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 3 and _is_rgb(value.shape)


def _is_rgb(shape: Sequence[int]) -> bool:
    return shape[2] == 3 and min(shape) > 0


def _fitted(picture: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """At the size of a panel: coarse pictures enlarged pixel by pixel."""
    image = Image.fromarray(np.ascontiguousarray(picture))
    coarse = 2 * image.width <= size[0]
    return ImageOps.pad(image, size, Image.Resampling.NEAREST if coarse else Image.Resampling.LANCZOS, "white")


def drawing_config(config: Config) -> tuple[Config, np.ndarray]:
    """The configuration with an environment that draws pictures, and one of them. Raises UsageError without any."""
    problem = ""
    for arguments in _arguments(config):
        picture, problem = _first_picture(config.env, arguments)
        if picture is not None:
            return dataclasses.replace(config, env_kwargs=arguments), picture
    expected = "a run on a MuJoCo family, Meta-World, the point mass, a grid or an environment that draws itself"
    remedy = "" if config.env in FAMILIES else REMEDY
    raise UsageError("RUN", expected=expected, got=f"one on '{config.env}', {problem}", remedy=remedy)


def _arguments(config: Config) -> list[dict[str, Any]]:
    """Arguments of the environment to try: with the render mode where it may take one, and as they are."""
    given = dict(config.env_kwargs)
    source = source_of(config.env, given)
    try:
        parameters = None if source.takes is None else inspect.signature(source.takes).parameters
    except (TypeError, ValueError):  # not written in Python
        parameters = None
    with_mode = given | {"render_mode": MODE}
    if parameters is not None and "render_mode" in parameters:
        return [with_mode]
    may_take = parameters is None or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return [with_mode, given] if may_take else [given]


def _first_picture(name: str, env_kwargs: Mapping[str, Any]) -> tuple[np.ndarray | None, str]:
    """A picture of the start of an episode, or None and why there is none."""
    family, doing = None, f"which cannot be built with {dict(env_kwargs)}"
    try:
        family = make_family(name, **env_kwargs)
        with running(family.code_settings):
            doing = "which fails"
            family.set_tasks(family.sample_tasks(1, np.random.default_rng(0)))
            family.reset(seed=[0])
            doing = "whose render() fails"
            (picture,) = family.render_lanes([0])
    except NotImplementedError:
        return None, "which has no render()"
    except (Exception, SystemExit) as error:  # a user's code may fail in any way
        return None, f"{doing} ({described(error)})"
    finally:
        close_quietly(family)
    return (picture, "") if is_picture(picture) else (None, f"whose render() returns {shown(picture)}")
