"""`mmaml sweep`: many runs from one command."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmaml.cli import train
from mmaml.cli.arguments import check_integers, whole_number
from mmaml.cli.overrides import laid_over, merged, split_keys, value_of
from mmaml.cli.script import Parser, one_line_errors
from mmaml.config.keys import ALIASES, Config
from mmaml.config.loading import idle_keys
from mmaml.config.shipped import find_config
from mmaml.config.value_types import MAX_INTEGER, clipped
from mmaml.errors import UsageError
from mmaml.extras import check_required
from mmaml.parallel.cores import physical_cores
from mmaml.paths import absolute, located
from mmaml.storage.checkpoint import by_iteration
from mmaml.storage.checkpoint_format import damage
from mmaml.storage.layout import FOLDER, PARAMS
from mmaml.storage.starting import DEFAULT_FOLDER
from mmaml.storage.writable import check_folder
from mmaml.sweeps.grid import SweepRun, read_grid, read_seeds, sweep_runs
from mmaml.wording import counted

DESCRIPTION = """\
Train with several seeds, and with every choice of values from a grid: one run each, side by side, on one core each.

The same command continues what was interrupted and starts what has not begun. A run that fails does not stop the rest.
Runs of one choice of values differ only in their seeds: `mmaml plot DIR/CHOICE/seed_?` draws them as one curve with a
band. A key that --grid gives one value holds for all runs, and is in no directory's name.
"""
# Keys that a sweep sets, or that would have all runs write one file; and what to do instead.
RESERVED = {
    "seed": ("differs from run to run", "use --seeds"),
    "dump_path": ("differs from run to run", "use --dump_path"),
    "restore_path": ("differs from run to run", "leave it out: a sweep continues its runs"),
    "resume": ('is "auto" in a sweep', "leave it out"),
    "te_save_path": ("would be the file of all runs", "leave it out, and give it when a run is continued"),
}
EXAMPLES = """\
examples:
  mmaml sweep navigation_2d_maml --seeds 1-3
  mmaml sweep point_mass_4_modes --seeds 1-5 --grid learning_rate=1e-3,2e-3 inner_lr=0.05,0.1 --dump_path out/sweep
  mmaml sweep grid_navi --seeds 1-3 --grid 'env_kwargs={"size": 5},{"size": 7}' --n_itr=500
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
    check_integers(options, {"jobs": (1, MAX_INTEGER)})
    options.seeds, grid = read_seeds(options.seeds), read_grid(options.grid)
    options.overrides = merged([*options.overrides, [f"{name}={value}" for name, value in keys.items()]])
    _check_names(grid, options.overrides)
    options.grid = {name: values for name, values in grid.items() if len(values) > 1}
    fixed = [f"{name}={values[0]}" for name, values in grid.items() if len(values) == 1]
    options.overrides = laid_over(options.overrides, merged([fixed]))
    return options


def _check_names(grid: Collection[str], overrides: Collection[str]) -> None:
    """Raise UsageError for a key that a sweep sets itself, or that both give."""
    for flag, names in (("--grid", grid), ("--overrides", overrides)):
        for name in (name for name in names if name in RESERVED):
            why, remedy = RESERVED[name]
            raise UsageError(flag, f"sets '{name}', which {why}", remedy)
    for name in overrides:
        if name in grid or name.partition(".")[0] in grid:
            raise UsageError("--overrides", f"sets '{name}', which --grid sets too", "keep one of them")


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """`mmaml sweep`. The exit code: 0 if all runs have finished, or were submitted; 1 if one has failed."""
    return one_line_errors(_run)(argv, prog)


def _run(argv: list[str] | None, prog: str | None) -> int:
    options = parse(argv, prog)
    check_required()
    config = find_config("CONFIG", options.config).absolute()
    given = options.dump_path or str(Path(DEFAULT_FOLDER) / f"{config.stem}_sweep")
    folder = Path(absolute(given) if options.dump_path is None else located(given, "--dump_path"))
    check_folder("--dump_path", folder)
    if (folder / PARAMS).exists():
        raise UsageError("--dump_path", f"'{given}' is the directory of a run", "choose another for the sweep")
    runs = sweep_runs(options.seeds, options.grid)

    def arguments(run: SweepRun) -> list[str]:
        """Those of `mmaml train`."""
        overrides = ["--overrides", json.dumps(options.overrides), *run.words]
        return [str(config), "--resume", "--dump_path", str(folder / run.name), "--ranks", "1", *overrides]

    configs = checked(runs, arguments, folder, options.grid)
    done = {run: iterations_of(folder / run.name) for run in runs}
    finished = [run.name for run, config in configs.items() if done[run] >= config.n_itr]
    if longer := sum(done[run] > config.n_itr for run, config in configs.items()):
        print(f"notice: more iterations than n_itr in {counted(longer, 'run')}, left unchanged", file=sys.stderr)

    def command(run: SweepRun) -> list[str]:
        return [sys.executable, "-m", "mmaml", "train", *arguments(run)]

    left = [run for run in runs if run.name not in finished]
    if options.slurm is not None and left:
        from mmaml.sweeps.slurm import submit

        jobs = submit(left, command, folder, options.jobs, _options_of_slurm(options.slurm))
        which = f"jobs {jobs[0]} to {jobs[-1]}" if len(jobs) > 1 else f"job {jobs[0]}"
        print(f"submitted {counted(len(jobs), 'run')} to Slurm, {which} → {given}")
        return 0
    from mmaml.sweeps.local import LocalSweep, Show

    print(f"{counted(len(runs), 'run')} → {given}", flush=True)
    return LocalSweep(runs, command, folder, options.jobs or physical_cores(), finished).run(Show())


def checked(
    runs: Sequence[SweepRun], arguments: Callable[[SweepRun], list[str]], folder: Path, grid: Collection[str]
) -> dict[SweepRun, Config]:
    """The configuration of each run: of one of each choice of values, whose others differ in their seeds alone; and of
    each that is there already, which has to be the run that is meant.

    grid: the keys whose values differ. Notices on stderr, where one has no effect. Raises UsageError for a run that
    cannot be trained, or continued.
    """
    found: dict[SweepRun, Config] = {}
    choices: dict[tuple[str, ...], Config] = {}
    for run in runs:
        choice = run.words[:-1]
        if choice not in choices or (folder / run.name / PARAMS).exists():
            options = train.parse(arguments(run), train.COMMAND)
            choices[choice], _ = train.resolve(options, Config.algorithm, train.COMMAND)
        found[run] = choices[choice]
    for config in choices.values():
        if config.te_save_path is not None and config.declaration.embeds:
            raise UsageError("te_save_path", *RESERVED["te_save_path"])
    _check_unequal(choices)
    keys = dict.fromkeys(ALIASES.get(name, name.partition(".")[0]) for name in grid)
    idle = {(config.algorithm, name) for config in choices.values() for name in idle_keys(config, keys)}
    for algorithm, name in sorted(idle):
        print(f"notice: no effect under {algorithm}: {name}; its values give equal runs", file=sys.stderr)
    return found


def _check_unequal(choices: Mapping[tuple[str, ...], Config]) -> None:
    """Raise UsageError for two choices that mean the same: a value written in two ways, or two names of one key."""
    found: dict[str, tuple[str, ...]] = {}
    for choice, config in choices.items():
        values = {name: value for name, value in config.to_dict().items() if name not in RESERVED}
        other = found.setdefault(repr(values), choice)
        if other != choice:
            problem = f"'{clipped(' '.join(other))}' and '{clipped(' '.join(choice))}' are the same"
            raise UsageError("--grid", problem, "keep one of them")


def iterations_of(run: Path) -> int:
    """How many iterations a run has had, by its newest checkpoint that is not damaged."""
    folder = run / FOLDER
    found = reversed(by_iteration(folder) if folder.is_dir() else [])
    return next((iteration for iteration, path in found if not damage(path)), 0)


def _options_of_slurm(words: Sequence[str]) -> dict[str, Any]:
    options = {}
    for word in words:
        name, equals, text = word.partition("=")
        name = name.replace("-", "_")  # as sbatch has it
        if not (name.isidentifier() and equals):
            raise UsageError("--slurm", expected="OPTION=VALUE …", got=f"'{word}'")
        options[name] = value_of(name, text)
    return options
