"""Panels side by side as an animated GIF, an MP4 and a contact sheet."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mmaml.figures.page import stage_name
from mmaml.figures.panels import GOAL, INK, TRAIL, Panels, font
from mmaml.storage.files import atomic_file

# All sizes in pixels.
GAP, CAPTION = 6, 18  # between panels; above each panel for its caption
LEFT, LINE = 128, 18  # for the names of rows; for a line of text
PALE, EDGE = (110, 110, 110), (205, 205, 205)
SHEET_TIMES = 6
LAST_FRAME_SECONDS = 1.5  # added to the time for which a GIF shows its last frame


def frame_times(panels: Panels, every: int | None, max_frames: int = 100) -> list[int]:
    """The time steps to show: each multiple of `every`, and the last. None: about `max_frames` of them at most."""
    last = int(panels.lengths.max())
    every = every or max(1, -(-last // max_frames))
    return [*range(0, last, every), last]


def sheet_times(panels: Panels) -> list[int]:
    """The time steps that a contact sheet shows."""
    return [int(time) for time in np.unique(np.linspace(0, panels.lengths.max(), SHEET_TIMES).round())]


def frame(panels: Panels, time: int, title: str) -> Image.Image:
    """All panels at a time step: one row per task, one column per number of adaptation steps."""
    tasks, collections = panels.lengths.shape
    heads = [stage_name(column, collections, panels.by_episode) for column in range(collections)]
    clock = f"step {time} of {panels.lengths.max()}{_seconds(panels, time)}"
    page = _Page(panels, tasks, heads, title, [clock, panels.note])
    for task in range(tasks):
        page.name(task, panels.names[task], panels.details[task])
        for column in range(collections):
            page.put(task, column, panel(panels, task, column, time))
    return page.image


def contact_sheet(panels: Panels, title: str) -> Image.Image:
    """One row for each task and number of adaptation steps, with pictures at several times."""
    tasks, collections = panels.lengths.shape
    times = sheet_times(panels)
    heads = [f"step {time}{_seconds(panels, time)}" for time in times]
    page = _Page(panels, tasks * collections, heads, title, [panels.note])
    for row, (task, step) in enumerate(np.ndindex(tasks, collections)):
        page.name(row, panels.names[task], panels.details[task], stage_name(step, collections, panels.by_episode))
        for column, time in enumerate(times):
            page.put(row, column, panel(panels, task, step, time))
    return page.image


def panel(panels: Panels, task: int, step: int, time: int) -> Image.Image:
    """One panel with its caption above it; pale once its episode has ended."""
    length = int(panels.lengths[task, step])
    time = min(time, length)
    image = panels.picture(task, step, time)
    location = panels.location(task, step, time)
    if panels.ended[task, step] and time == length:
        image = Image.blend(image.convert("L").convert("RGB"), Image.new("RGB", image.size, "white"), 0.45)
        location = f"ended at step {length}"
    ImageDraw.Draw(image).rectangle([0, 0, image.width - 1, image.height - 1], outline=EDGE)
    whole = Image.new("RGB", (image.width, image.height + CAPTION), "white")
    whole.paste(image, (0, CAPTION))
    draw, caption = ImageDraw.Draw(whole), panels.captions[task][step]
    draw.text((1, CAPTION - 5), caption, INK, font(12), "ls")
    if font(12).getlength(caption) + font(10).getlength(location) + 10 < image.width:
        draw.text((image.width - 2, CAPTION - 5), location, PALE, font(10), "rs")
    return whole


def write_png(image: Image.Image, path: Path) -> None:
    """Write a picture; like the two below, the file is complete or not written. Raises OSError."""
    with atomic_file(path) as file:
        image.save(file, "PNG")


def write_gif(frames: Sequence[Image.Image], path: Path, fps: float) -> None:
    """Write an endless GIF. All frames share one palette, so that unchanged pixels take no space. Raises OSError."""
    some = [np.asarray(frames[index]) for index in np.unique(np.linspace(0, len(frames) - 1, 4).astype(int))]
    # Goals, trails and text are small: without extra pixels of their colours the palette would miss them.
    marks = [np.full_like(some[0][: len(some[0]) // 8], colour) for colour in (GOAL, TRAIL, INK)]
    palette = Image.fromarray(np.concatenate(some + marks)).quantize(255)
    flat = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in frames]
    colours = np.array(flat[0].getpalette()).reshape(-1, 3)
    colours[np.asarray(flat[0])[0, 0]] = 255  # the background, to which the palette gave a colour near white
    for image in flat:
        image.putpalette(colours.ravel().tolist())
    pause = max(20, round(1000 / fps))
    durations = [*[pause] * (len(flat) - 1), pause + round(1000 * LAST_FRAME_SECONDS)]
    options = {"append_images": flat[1:], "duration": durations, "loop": 0, "optimize": False}
    with atomic_file(path) as file:
        flat[0].save(file, "GIF", save_all=True, **options)


def write_mp4(frames: Sequence[Image.Image], path: Path, fps: float) -> None:
    """Write an MP4 (H.264) with the ffmpeg of the package imageio-ffmpeg. Raises OSError, also if ffmpeg fails."""
    from imageio_ffmpeg import get_ffmpeg_exe  # type: ignore[import-untyped]

    width, height = frames[0].size
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "-"]
    film = ["-codec:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "10", "-f", "mp4"]
    with atomic_file(path) as file:
        command = [get_ffmpeg_exe(), "-y", "-v", "error", *source, *film, file.name]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as encoder:
            assert encoder.stdin is not None
            with suppress(BrokenPipeError):  # ffmpeg has ended; its stderr has the reason
                for image in frames:
                    encoder.stdin.write(image.tobytes())
            _, message = encoder.communicate()
        if encoder.returncode:
            reason = message.decode(errors="replace").partition("\n")[0].rpartition("] ")[2]
            raise OSError(f"ffmpeg: {reason or f'ended with exit code {encoder.returncode}'}")


def _seconds(panels: Panels, time: int) -> str:
    return "" if panels.dt is None else f", {time * panels.dt:.2f} s"


class _Page:
    """A grid of panels with names of rows and columns, a title, and text below. Its sides are even, as MP4 needs."""

    def __init__(self, panels: Panels, rows: int, heads: Sequence[str], title: str, feet: Sequence[str]) -> None:
        self.step = panels.width + GAP, panels.height + CAPTION + GAP
        width = LEFT + len(heads) * self.step[0]
        titles = _broken(title, font(14, bold=True), width - 20)
        notes = [line for foot in feet for line in _broken(foot, font(11), width - 20)]
        self.top = 16 + LINE * (len(titles) + 1)
        bottom = self.top + rows * self.step[1]
        height = bottom + LINE * len(notes) + 8
        self.image = Image.new("RGB", (width + width % 2, height + height % 2), "white")
        self.draw = ImageDraw.Draw(self.image)
        for number, line in enumerate(titles):
            self.draw.text((10, 8 + LINE * number), line, INK, font(14, bold=True))
        for number, line in enumerate(notes):
            self.draw.text((10, bottom + 2 + LINE * number), line, PALE, font(11))
        for column, head in enumerate(heads):
            middle = LEFT + column * self.step[0] + panels.width // 2
            self.draw.text((middle, self.top - 7), head, INK, font(13), "ms")

    def name(self, row: int, name: str, *details: str) -> None:
        y = self.top + row * self.step[1] + CAPTION
        self.draw.text((10, y), name, INK, font(13, bold=True))
        lines = [line for detail in details for line in _broken(detail, font(11), LEFT - 16)]
        for number, line in enumerate(lines):
            self.draw.text((10, y + 20 + 14 * number), line, PALE, font(11))

    def put(self, row: int, column: int, image: Image.Image) -> None:
        self.image.paste(image, (LEFT + column * self.step[0], self.top + row * self.step[1]))


def _broken(text: str, letters: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """The text broken into lines of at most `width` pixels; longer words are not broken."""
    lines: list[str] = []
    for word in text.split():
        if lines and letters.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
