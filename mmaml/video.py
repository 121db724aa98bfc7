"""Panels side by side as an animated GIF, an MP4 and a contact sheet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from mmaml.panels import INK, Panels, font, label

GAP = 6
LEFT, TOP, BOTTOM = 128, 58, 26  # room for the names of rows, of columns, and for the time
PALE = (110, 110, 110)
SHEET_TIMES = 6
LINGER = 1.5  # s that a GIF stays at its end


def frame_times(panels: Panels, every: int | None, most: int = 100) -> list[int]:
    """Every so many time steps, and the last; where not said, as few apart as gives no more than about `most`."""
    last = int(panels.lengths.max())
    every = every or max(1, -(-last // most))
    return [*range(0, last, every), last]


def frame(panels: Panels, time: int, title: str) -> Image.Image:
    """All panels at a time step: tasks in rows, numbers of adaptation steps in columns."""
    tasks, collections = panels.lengths.shape
    page = _Page(panels, tasks, collections, title)
    for column in range(collections):
        page.head(column, step_name(column))
    for task in range(tasks):
        page.name(task, panels.names[task], panels.details[task])
        for column in range(collections):
            page.place(task, column, panel(panels, task, column, time))
    page.foot(f"{panels.note}", f"step {time} of {panels.lengths.max()}{_seconds(panels, time)}")
    return page.image


def contact_sheet(panels: Panels, title: str) -> Image.Image:
    """A row for each task and number of adaptation steps, with pictures at several times."""
    tasks, collections = panels.lengths.shape
    times = np.unique(np.linspace(0, panels.lengths.max(), SHEET_TIMES).round().astype(int)).tolist()
    page = _Page(panels, tasks * collections, len(times), title)
    for column, time in enumerate(times):
        page.head(column, f"step {time}{_seconds(panels, time)}")
    for row, (task, step) in enumerate(np.ndindex(tasks, collections)):
        page.name(row, panels.names[task], panels.details[task], step_name(step))
        for column, time in enumerate(times):
            page.place(row, column, panel(panels, task, step, time))
    page.foot(panels.note, "")
    return page.image


def panel(panels: Panels, task: int, step: int, time: int) -> Image.Image:
    """One panel with its caption; pale from the end of its episode on."""
    image = panels.picture(task, step, time)
    length = int(panels.lengths[task, step])
    if panels.ended[task, step] and time >= length:
        image = Image.blend(image.convert("L").convert("RGB"), Image.new("RGB", image.size, "white"), 0.45)
        label(image, (image.width // 2, image.height // 2), f"ended at step {length}", 12, "mm")
    label(image, (6, 7), panels.captions[task][step], 12, "lt")
    return image


def step_name(step: int) -> str:
    """How a number of adaptation steps is called."""
    return f"after {step} step{'s' if step > 1 else ''}" if step else "before adaptation"


def write_gif(frames: Sequence[Image.Image], path: Path, fps: float) -> None:
    """An endless GIF, in colours chosen for all its frames alike so that what stands still costs nothing."""
    some = [frames[index] for index in np.unique(np.linspace(0, len(frames) - 1, 4).astype(int))]
    palette = Image.fromarray(np.concatenate([np.asarray(image) for image in some])).quantize(255)
    flat = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in frames]
    pause = max(20, round(1000 / fps))
    durations = [*[pause] * (len(flat) - 1), pause + round(1000 * LINGER)]
    flat[0].save(path, save_all=True, append_images=flat[1:], duration=durations, loop=0, optimize=False)


def write_mp4(frames: Sequence[Image.Image], path: Path, fps: float) -> None:
    """An MP4 (H.264), by the ffmpeg that comes with imageio-ffmpeg."""
    import imageio.v2 as imageio

    pictures: list[Any] = [np.asarray(image) for image in frames]
    imageio.mimwrite(path, pictures, format="FFMPEG", fps=fps, codec="libx264", quality=8, macro_block_size=2)


def _seconds(panels: Panels, time: int) -> str:
    return "" if panels.dt is None else f", {time * panels.dt:.2f} s"


class _Page:
    """A grid of panels with names of rows and columns, a title and a footing. Its sides are even, as MP4 asks for."""

    def __init__(self, panels: Panels, rows: int, columns: int, title: str) -> None:
        self.step = panels.width + GAP, panels.height + GAP
        self.bottom = TOP + rows * self.step[1]
        width, height = LEFT + columns * self.step[0], self.bottom + BOTTOM
        self.image = Image.new("RGB", (width + width % 2, height + height % 2), "white")
        self.draw = ImageDraw.Draw(self.image)
        self.draw.text((10, 10), title, INK, font(14, bold=True))

    def head(self, column: int, text: str) -> None:
        middle = LEFT + column * self.step[0] + (self.step[0] - GAP) // 2
        self.draw.text((middle, TOP - 7), text, INK, font(13), "ms")

    def name(self, row: int, name: str, *details: str) -> None:
        y = TOP + row * self.step[1] + 8
        self.draw.text((10, y), name, INK, font(13, bold=True))
        for number, line in enumerate(line for detail in details for line in _broken(detail)):
            self.draw.text((10, y + 20 + 14 * number), line, PALE, font(11))

    def place(self, row: int, column: int, image: Image.Image) -> None:
        x, y = LEFT + column * self.step[0], TOP + row * self.step[1]
        self.image.paste(image, (x, y))
        self.draw.rectangle([x, y, x + image.width - 1, y + image.height - 1], outline=(205, 205, 205))

    def foot(self, left: str, right: str) -> None:
        self.draw.text((LEFT, self.bottom + 5), left, PALE, font(11))
        self.draw.text((self.image.width - GAP, self.bottom + 5), right, INK, font(12), "ra")


def _broken(text: str) -> list[str]:
    """Lines that fit beside the panels."""
    lines: list[str] = []
    for word in text.split():
        if lines and font(11).getlength(f"{lines[-1]} {word}") <= LEFT - 16:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
