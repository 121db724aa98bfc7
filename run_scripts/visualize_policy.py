"""Show what adaptation does: the policy of a run on one held-out task a mode, before and after each step, moving.

    python run_scripts/visualize_policy.py --restore_path data/run1
    python run_scripts/visualize_policy.py --restore_path data/run1 --num_adapt_steps 4 --renderer drawing

For MuJoCo families and the point mass. Writes policy.gif, policy.mp4 and policy.png, a contact sheet, into the run's
directory, or into the one that --output names.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmaml.cli.arguments import check_folder, check_integers
from mmaml.cli.script import Parser, add_inner_lr, one_line_errors
from mmaml.config.value_types import LARGEST_INTEGER, MOST_STEPS
from mmaml.errors import UsageError
from mmaml.storage.files import writing

if TYPE_CHECKING:
    from mmaml.config.keys import Config
    from mmaml.figures.mujoco_panels import Artist
    from mmaml.figures.panels import Panels

RENDERERS = ("auto", "mujoco", "drawing")
RANGES = {
    "num_adapt_steps": (0, MOST_STEPS),
    "rollouts_per_task": (1, LARGEST_INTEGER),
    "every": (1, LARGEST_INTEGER),
    "fps": (1, 1000),
    "width": (100, 4000),
    "seed": (0, LARGEST_INTEGER),
}
LARGEST_SIDE = 16_000  # pixels of a film: as far as H.264 goes


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line; raises UsageError."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--restore_path", required=True, metavar="RUN", help="a run's directory (its newest checkpoint) or a checkpoint"
    )
    parser.add_argument("--num_adapt_steps", type=int, metavar="K", help="inner steps (default: as in training)")
    parser.add_argument("--rollouts_per_task", type=int, metavar="N", help="to adapt on (default: as in training)")
    add_inner_lr(parser)
    parser.add_argument("--split", choices=("test", "ood"), default="test", help="which held-out tasks (default: test)")
    parser.add_argument("--seed", type=int, help="of tasks and randomness (default: the run's)")
    parser.add_argument(
        "--renderer", choices=RENDERERS, default="auto",
        help="of MuJoCo bodies: MuJoCo's own, which needs EGL or OSMesa, or a drawing, which needs nothing "
        "(default: MuJoCo's where it works)",
    )  # fmt: skip
    parser.add_argument("--width", type=int, default=240, metavar="PIXELS", help="of a panel (default: 240)")
    parser.add_argument("--every", type=int, metavar="N", help="time steps a frame (default: about 100 frames in all)")
    parser.add_argument("--fps", type=int, default=20, metavar="N", help="frames a second (default: 20)")
    parser.add_argument("--output", type=Path, metavar="DIRECTORY", help="where to write (default: the run's own)")
    arguments = parser.parse_args(argv)
    check_integers(arguments, RANGES)
    if arguments.output is not None:
        check_folder("--output", arguments.output)
    return arguments


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Write the pictures and print their paths."""
    arguments = parse(argv)
    from mmaml.evaluation.held_out import check_memory, check_split, restore
    from mmaml.figures import video  # these load torch and more: after the arguments are known to be good
    from mmaml.storage.layout import run_directory

    config, state = restore(arguments.restore_path)
    check_split(config, arguments.split)
    folder = arguments.output or run_directory(arguments.restore_path)
    check_folder("--output", folder)
    config = config.replace(
        seed=config.seed if arguments.seed is None else arguments.seed,
        rollouts_per_meta_task=arguments.rollouts_per_task or config.rollouts_per_meta_task,
        inner_lr=config.inner_lr if arguments.inner_lr is None else tuple(arguments.inner_lr),
    )
    steps = config.num_inner_grad_steps if arguments.num_adapt_steps is None else arguments.num_adapt_steps
    check_memory(config, 1, steps, ("--rollouts_per_task", "max_path_length", "--num_adapt_steps"))
    panels = make_panels(config, state, steps, arguments)
    title = f"{config.algorithm} on {config.env} after {state['iteration']} iterations"
    gif, mp4, sheet = (folder / f"policy.{kind}" for kind in ("gif", "mp4", "png"))
    with closing(panels):
        times = video.frame_times(panels, arguments.every)
        check_sizes(panels, len(times))
        contact_sheet = video.contact_sheet(panels, title)
        frames = [video.frame(panels, time, title) for time in times]
    with writing("--output", folder):
        folder.mkdir(parents=True, exist_ok=True)
        video.write_png(contact_sheet, sheet)
        video.write_gif(frames, gif, arguments.fps)
        video.write_mp4(frames, mp4, arguments.fps)
    print(gif, mp4, sheet, sep="\n")
    return 0


def check_sizes(panels: Panels, frames: int) -> None:
    """Raise UsageError if a film of these panels had more pixels than films may have, or than fit into memory."""
    from mmaml.config.memory_check import Need, check

    tasks, collections = panels.lengths.shape
    width, height = collections * panels.width, tasks * panels.height
    if max(width, height) > LARGEST_SIDE:
        raise UsageError(
            f"--width: expected a film of at most {LARGEST_SIDE} pixels a side, got {width} × {height} in its panels; "
            "lower --width or --num_adapt_steps"
        )
    what = f"{frames} pictures of {width} × {height} pixels"
    check([Need(3 * frames * width * height, what, ("--width", "--num_adapt_steps", "--every"))])


def make_panels(config: Config, state: dict[str, Any], steps: int, arguments: argparse.Namespace) -> Panels:
    """The rollouts of the policy, ready to be drawn; raises UsageError for a family that cannot be."""
    from mmaml.envs.mujoco.base import MujocoFamily
    from mmaml.figures.mujoco_panels import MujocoPanels
    from mmaml.figures.panels import PointMassPanels
    from mmaml.figures.recording import point_mass_trajectories, record

    assert config.env_spec is not None
    if issubclass(config.env_spec.family, MujocoFamily):
        artist = choose_artist(arguments.renderer)
        return MujocoPanels(record(config, state, steps + 1, arguments.split), arguments.width, artist)
    trajectories = point_mass_trajectories(config, state, config.rollouts_per_meta_task, steps + 1, arguments.split)
    if trajectories is None:
        raise UsageError(
            f"restore_path: expected a run on a MuJoCo family or a point mass, which can be drawn, got '{config.env}'"
        )
    return PointMassPanels(trajectories, arguments.width)


def choose_artist(renderer: str) -> Artist:
    """What draws bodies, by the argument --renderer; raises UsageError if it does not work here."""
    from mmaml.figures.ray_caster import Drawing
    from mmaml.figures.renderer import Renderer, usable_backend

    backend = None if renderer == "drawing" else usable_backend()
    if backend is not None:
        return lambda model, width, height: Renderer(model, width, height, backend)
    if renderer == "mujoco":
        raise UsageError(
            "--renderer: expected EGL or OSMesa for 'mujoco', found none that works; install libosmesa6, or say "
            "--renderer drawing"
        )
    return Drawing


if __name__ == "__main__":
    sys.exit(main())
