"""`mmaml visualize`: what adaptation does, as moving pictures."""

from __future__ import annotations

import argparse
from contextlib import closing
from typing import TYPE_CHECKING, Any

from mmaml.cli.arguments import whole_number
from mmaml.cli.options import adapted, add_output_folder, output_folder, parse_run, run_parser
from mmaml.cli.script import one_line_errors
from mmaml.config.value_types import MAX_INTEGER
from mmaml.errors import UsageError
from mmaml.storage.files import writing
from mmaml.storage.writable import check_folder
from mmaml.wording import counted
from mmaml.written_paths import as_written

if TYPE_CHECKING:
    from mmaml.config.keys import Config
    from mmaml.figures.mujoco_panels import Artist
    from mmaml.figures.panels import Panels

DESCRIPTION = """\
Show what adaptation does: the policy of a run on one held-out task of each mode, before and after each step, moving.

For MuJoCo families, Meta-World, the point mass, grids, and environments that draw themselves (render_mode "rgb_array").
Writes policy.gif, policy.mp4 and policy.png, a contact sheet, into the run's directory, or into that of --output.
"""
EXAMPLES = """\
examples:
  mmaml visualize data/run1
  mmaml visualize data/run1 --num_adapt_steps 4 --renderer drawing
"""
RENDERERS = ("auto", "mujoco", "drawing")
RANGES = {"every": (1, MAX_INTEGER), "fps": (1, 1000), "width": (100, 4000)}
MAX_SIDE = 16_000  # pixels of a film: as far as H.264 goes


def parse(argv: list[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    """The command line. Raises UsageError."""
    parser = run_parser(prog, DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "--renderer", choices=RENDERERS, default="auto",
        help="of MuJoCo bodies: MuJoCo's own, which needs EGL or OSMesa, or a drawing, which needs neither (default: "
        "MuJoCo's where it works)",
    )  # fmt: skip
    parser.add_argument("--width", type=whole_number, default=240, metavar="PIXELS", help="of a panel (default: 240)")
    parser.add_argument(
        "--every", type=whole_number, metavar="N", help="time steps per frame (default: for about 100 frames)"
    )
    parser.add_argument("--fps", type=whole_number, default=20, metavar="N", help="frames per second (default: 20)")
    add_output_folder(parser)
    arguments = parse_run(parser, argv, RANGES)
    arguments.output = output_folder(arguments)
    return arguments


@one_line_errors
def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Write the pictures and print their paths. The exit code."""
    arguments = parse(argv, prog)
    from mmaml.evaluation.held_out import check_memory, check_split, restore
    from mmaml.figures import video  # these load torch and more: after the arguments are known to be good
    from mmaml.storage.layout import run_directory

    config, state = restore(arguments.restore_path)
    check_split(config, arguments.split)
    folder = arguments.output or run_directory(arguments.restore_path)
    check_folder("--output", folder)
    config, steps = adapted(config, arguments)
    check_memory(config, 1, steps, ("--rollouts_per_task", "max_path_length", "--num_adapt_steps"))
    panels = make_panels(config, state, steps, arguments)
    title = f"{config.algorithm} on {config.env} after {counted(state['iteration'], 'iteration')}"
    gif, mp4, sheet = (folder / f"policy.{kind}" for kind in ("gif", "mp4", "png"))
    with closing(panels):
        times = video.frame_times(panels, arguments.every)
        check_sizes(panels, len(times))
        panels.prepare({*times, *video.sheet_times(panels)})
        contact_sheet = video.contact_sheet(panels, title)
        frames = [video.frame(panels, time, title) for time in times]
    with writing("--output", folder):
        folder.mkdir(parents=True, exist_ok=True)
        video.write_png(contact_sheet, sheet)
        video.write_gif(frames, gif, arguments.fps)
        video.write_mp4(frames, mp4, arguments.fps)
    print(*(as_written(path) for path in (gif, mp4, sheet)), sep="\n")
    return 0


def check_sizes(panels: Panels, frames: int) -> None:
    """Raise UsageError if a film of these panels has too many pixels for the format, or for memory."""
    from mmaml.config.memory_check import Need, check

    tasks, collections = panels.lengths.shape
    width, height = collections * panels.width, tasks * panels.height
    if max(width, height) > MAX_SIDE:
        raise UsageError(
            "--width",
            f"the film would have {width} × {height} pixels, more than {MAX_SIDE} on a side",
            "lower --width or --num_adapt_steps",
        )
    what = f"{frames} pictures of {width} × {height} pixels"
    check([Need(3 * frames * width * height, what, ("--width", "--num_adapt_steps", "--every"))])


def make_panels(config: Config, state: dict[str, Any], steps: int, arguments: argparse.Namespace) -> Panels:
    """The rollouts of the policy, ready to be drawn. Raises UsageError for an environment that cannot be drawn."""
    from mmaml.envs.discrete import GridFamily
    from mmaml.envs.metaworld import MetaWorld
    from mmaml.envs.mujoco.base import MujocoFamily
    from mmaml.envs.point_mass import PointMass
    from mmaml.figures.grid_panels import GridPanels
    from mmaml.figures.grid_paths import grid_paths
    from mmaml.figures.mujoco_panels import MujocoPanels
    from mmaml.figures.panels import PointMassPanels
    from mmaml.figures.recording import point_mass_trajectories, record, sampled_stages
    from mmaml.figures.rendered_panels import RenderedPanels
    from mmaml.figures.sawyer_panels import SawyerPanels

    assert config.env_spec is not None
    if issubclass(config.env_spec.family, MujocoFamily):
        artist = choose_artist(arguments.renderer)
        return MujocoPanels(record(config, state, steps + 1, arguments.split), arguments.width, artist)
    if issubclass(config.env_spec.family, MetaWorld):
        artist = choose_artist(arguments.renderer)
        return SawyerPanels(config, state, steps + 1, arguments.split, arguments.width, artist)
    if not issubclass(config.env_spec.family, PointMass | GridFamily):
        return RenderedPanels(config, state, steps + 1, arguments.split, arguments.width)
    sampled = sampled_stages(config, state, config.rollouts_per_meta_task, steps + 1, arguments.split)
    if issubclass(config.env_spec.family, GridFamily):
        return GridPanels(grid_paths(sampled), arguments.width, config.max_path_length)
    return PointMassPanels(point_mass_trajectories(sampled), arguments.width)


def choose_artist(renderer: str) -> Artist:
    """What draws bodies, by the argument --renderer. Raises UsageError if it does not work here."""
    from mmaml.figures.ray_caster import Drawing
    from mmaml.figures.renderer import Renderer, usable_backend

    backend = None if renderer == "drawing" else usable_backend()
    if backend is not None:
        return lambda model, width, height: Renderer(model, width, height, backend)
    if renderer == "mujoco":
        raise UsageError(
            "--renderer",
            "'mujoco' needs EGL or OSMesa, and neither works here",
            "install libosmesa6, or give --renderer drawing",
        )
    return Drawing
