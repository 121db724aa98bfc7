"""`mmaml sweep`: many runs from one command."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmaml.cli import train
from mmaml.cli.arguments import check_integers, whole_number
from mmaml.cli.overrides import merged, split_keys, value_of
from mmaml.cli.script import Parser, one_line_errors
from mmaml.config.keys import Config
from mmaml.config.shipped import find_config
from mmaml.config.value_types import LARGEST_INTEGER
from mmaml.errors import UsageError
from mmaml.parallel.cores import physical_cores
from mmaml.paths import absolute, located
from mmaml.storage.checkpoint import file_name
from mmaml.storage.layout import FOLDER
from mmaml.storage.starting import DEFAULT_FOLDER
from mmaml.storage.writable import check_folder
from mmaml.sweeps.grid import SweepRun, read_grid, read_seeds, sweep_runs

DESCRIPTION = """\
Train with several seeds, and with every choice of values from a grid: one run each, side by side, on one core each.

The same command continues what was interrupted and starts what has not begun. A run that fails does not stop the rest.
Runs of one choice of values differ only in their seeds: `mmaml plot DIR/CHOICE/seed_?` draws them as one curve with a
band.
"""
EXAMPLES = """\
examples:
  mmaml sweep navigation_2d_maml --seeds 1-3
  mmaml sweep point_mass_4_modes --seeds 1-5 --grid learning_rate=1e-3,2e-3 inner_lr=0.05,0.1 --dump_path out/sweep
  mmaml sweep grid_navi --seeds 1-3 --grid 'env_kwargs={"size": 5},{"size": 7}' n_itr=500
  mmaml sweep navigation_2d_maml --seeds 1-20 --slurm partition=short time=60 mem_gb=4
"""


def parse(argv: list[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    """The command line. Raises UsageError."""
    parser = Parser(prog, usage="%(prog)s CONFIG [options]", description=DESCRIPTION, epilog=EXAMPLES)
    add = parser.add_argument
    add("config", metavar="CONFIG", help="a JSON or YAML file, or the name of a shipped configuration")
    add("--seeds", default="1", help="such as 1-5 or 1,2,7 (default: 1)")
    add("--grid", nargs="+", action="extend", default=[], metavar="KEY=VALUE,…", help="values of a key to choose from")
    add("--dump_path", metavar="DIR", help="the sweep's directory (default: data/CONFIG_sweep)")
    add("--jobs", type=whole_number, metavar="N", help="runs at a time (default: one per physical core)")
    add("--slurm", nargs="*", metavar="OPTION=VALUE", help="submit a job array, with such options of sbatch")
    add("--overrides", nargs="+", action="append", default=[], metavar="JSON", help="as for `mmaml train`")
    words, keys = split_keys(sys.argv[1:] if argv is None else argv, parser.flags())
    options = parser.parse_args(words)
    check_integers(options, {"jobs": (1, LARGEST_INTEGER)})
    options.seeds, options.grid = read_seeds(options.seeds), read_grid(options.grid)
    options.overrides = merged([*options.overrides, [f"{name}={value}" for name, value in keys.items()]])
    for name in {"seed", "dump_path", "restore_path", *options.grid} & {*options.overrides}:
        remedy = "keep one of them" if name in options.grid else f"use --{'seeds' if name == 'seed' else 'dump_path'}"
        raise UsageError("--overrides", f"sets '{name}', which differs from run to run", remedy)
    return options


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """`mmaml sweep`. The exit code: 0 if all runs have finished, or were submitted; 1 if one has failed."""
    return one_line_errors(_run)(argv, prog)


def _run(argv: list[str] | None, prog: str | None) -> int:
    options = parse(argv, prog)
    config = find_config("CONFIG", options.config).absolute()
    given = options.dump_path or str(Path(DEFAULT_FOLDER) / f"{config.stem}_sweep")
    folder = Path(absolute(given) if options.dump_path is None else located(given, "--dump_path"))
    check_folder("--dump_path", folder)
    runs = sweep_runs(options.seeds, options.grid)

    def arguments(run: SweepRun) -> list[str]:
        """Those of `mmaml train`."""
        overrides = ["--overrides", json.dumps(options.overrides), *run.words]
        return [str(config), "--resume", "--dump_path", str(folder / run.name), "--ranks", "1", *overrides]

    finished = [run.name for run, config in checked(runs, arguments).items() if has_finished(folder / run.name, config)]

    def command(run: SweepRun) -> list[str]:
        return [sys.executable, "-m", "mmaml", "train", *arguments(run)]

    left = [run for run in runs if run.name not in finished]
    if options.slurm is not None and left:
        from mmaml.sweeps.slurm import submit

        jobs = submit(left, command, folder, options.jobs, _options_of_slurm(options.slurm))
        print(f"submitted {len(jobs)} runs to Slurm, jobs {jobs[0]} to {jobs[-1]} → {given}")
        return 0
    from mmaml.sweeps.local import LocalSweep, Show

    print(f"{len(runs)} runs → {given}", flush=True)
    return LocalSweep(runs, command, folder, options.jobs or physical_cores(), finished).run(Show())


def checked(runs: Sequence[SweepRun], arguments: Callable[[SweepRun], list[str]]) -> dict[SweepRun, Config]:
    """The configuration of each run, but for its seed: one of each choice of values is looked at.

    Raises UsageError if it cannot be trained.
    """
    configs: dict[tuple[str, ...], Config] = {}
    for run in runs:
        choice = run.words[:-1]
        if choice not in configs:
            options = train.parse(arguments(run), train.COMMAND)
            configs[choice], _ = train.resolve(options, Config.algorithm, train.COMMAND)
    return {run: configs[run.words[:-1]] for run in runs}


def has_finished(run: Path, config: Config) -> bool:
    """Whether a run has had all of its iterations."""
    return (run / FOLDER / file_name(config.n_itr)).exists()


def _options_of_slurm(words: Sequence[str]) -> dict[str, Any]:
    options = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not (name.isidentifier() and equals):
            raise UsageError("--slurm", expected="OPTION=VALUE …", got=f"'{word}'")
        options[name] = value_of(name, text)
    return options
