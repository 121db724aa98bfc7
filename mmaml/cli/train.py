"""`mmaml train` and the training scripts: from the command line to a run."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from textwrap import wrap
from typing import Any

from mmaml.cli.options import one_of_two
from mmaml.cli.overrides import check_key, laid_over, merged, split_keys, value_of, with_parts
from mmaml.cli.script import Parser, one_line_errors, restart_words
from mmaml.config.algorithms import ALGORITHMS
from mmaml.config.declaration_file import declaration_of
from mmaml.config.keys import COMMON_KEYS, LEGACY, Config
from mmaml.config.loading import canonical, known_keys, read_config_file
from mmaml.config.shipped import find_config
from mmaml.config.value_types import FLAG, Kind, integer
from mmaml.errors import ConfigError, Interrupted, RunStopped, UsageError, disk_reason, to_stderr
from mmaml.extras import check_required, not_installed
from mmaml.launcher import protocol
from mmaml.parallel import launch
from mmaml.parallel.cores import physical_cores
from mmaml.parallel.shutdown import shutdown
from mmaml.paths import absolute
from mmaml.storage.run_lock import RunLock
from mmaml.storage.starting import DEFAULT_FOLDER, Values, ready, run_to_continue, settled

KEYS = ("algorithm", "dump_path", "restore_path", "te_save_path")  # that have a flag of their own name


@dataclass(frozen=True)
class Flag:
    """A flag that sets a key of the configuration.

    kind: of its value; None: that of the key. settings: maps the value and the keys and values so far (of the run that
    is continued, of the file, of earlier flags) to the keys and values it sets; None: the value is that of the key.
    text: for --help; "": the key's own.
    """

    key: str
    kind: Kind | None = None
    settings: Callable[[Any, Values], Values] | None = None
    text: str = ""


@dataclass(frozen=True)
class Script:
    """What a run script, or the command `mmaml train`, has of its own.

    flags: by name, such as "--fast-lr". synonyms: further names of these, and of flags that every script has.
    config_file: the configuration of a new run unless one is given. description, epilog: how --help begins and ends.
    command: the words before the arguments; a new run is then named by its algorithm, not by the script.
    needs_config: whether a new run has to be given a configuration.
    """

    flags: Mapping[str, Flag] = field(default_factory=dict)
    synonyms: Mapping[str, Sequence[str]] = field(default_factory=dict)
    config_file: Path | None = None
    description: str = "Meta-train. Without mpirun, starts itself under mpirun with one rank per physical core."
    epilog: str = ""
    command: tuple[str, ...] = ()
    needs_config: bool = False


PLAIN = Script()
COMMAND = Script(
    description="""\
Meta-train a policy. CONFIG is a JSON or YAML file, or the name of a configuration that comes with the package (`mmaml
configs` lists them). Starts itself under mpirun with one rank per physical core; run under mpirun, it uses those ranks.
""",
    epilog="""\
examples:
  mmaml train navigation_2d_maml
  mmaml train point_mass_4_modes --ranks 2 --dump_path runs/first
  mmaml train my_config.json --overrides '{"n_itr": 100, "seed": 2}'
  mmaml train my_config.json --n_itr=100 --seed=2
  mmaml train --restore_path runs/first

""",
    command=("train",),
    needs_config=True,
)


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """`mmaml train`. The exit code."""
    return run(Config.algorithm, argv, COMMAND, prog)


def run(algorithm: str, argv: list[str] | None = None, script: Script = PLAIN, prog: str | None = None) -> int:
    """Meta-train by the command line, on all cores unless it says otherwise. The exit code.

    algorithm: what trains unless the configuration names one. argv: the arguments, by default the process's.
    script: what the run script adds. prog: what --help calls the program. An error that the user can correct is one
    line on stderr and exit code 2, before any rank works and with nothing written.
    """
    try:
        with shutdown.handling_signals():
            code = one_line_errors(_run)(algorithm, script, argv, prog)
    except RunStopped:
        code = 1  # the log says why
    except Interrupted as interrupted:
        code = protocol.ended(interrupted.exit_code)  # before anything is printed, which may fail or take long
        if not interrupted.reported:
            to_stderr(str(interrupted))
    return protocol.ended(code)


def _run(algorithm: str, script: Script, argv: list[str] | None, prog: str | None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    options = parse(arguments, script, prog)
    check_required()
    launched, directory = protocol.announced_ranks() is not None, os.getcwd()
    resolved = None
    if not launched:
        resolved = resolve(options, algorithm, script)
        count = rank_count(resolved[0], options.ranks)
        if count > 1:
            launch.relaunch(count, directory, [*restart_words(), *script.command, *arguments])

    from mmaml.parallel.ranks import connect  # these load torch: after the configuration is known to be good
    from mmaml.trainer import train

    ranks = connect(parallel=launched)
    launch.check_launcher(ranks.size)
    with ranks, RunLock() as lock:

        def settle() -> Config:
            config, given = resolved or resolve(options, algorithm, script)
            check_given_ranks(config, options.ranks, ranks.size, options.ranks_flag)
            return ready(config, lock, given)

        config = ranks.agree(settle)
        train(config, ranks)
    if ranks.rank == 0:
        from mmaml.figures.run_figures import draw_run

        try:
            draw_run(Path(str(config.dump_path)), config.env_spec)
        except (OSError, UsageError, ImportError) as error:  # a full disk, no matplotlib; the run itself is safe
            to_stderr(f"warning: the run's pictures could not be drawn ({_reason(error)})")
        except Interrupted as interrupted:  # the run itself has ended, and ended well
            to_stderr(f"warning: the run's pictures are not drawn: {interrupted}")
    return 0


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return disk_reason(error)
    return str((isinstance(error, ImportError) and not_installed(error)) or error)


def parse(argv: list[str], script: Script = PLAIN, prog: str | None = None) -> argparse.Namespace:
    """The command line. Raises UsageError."""
    parser = _parser(script, prog)
    words, keys = split_keys(argv, parser.flags())
    options = parser.parse_args(words)
    options.flags = parser.flags()
    options.overrides = merged(options.overrides)
    options.keys = canonical({name: value_of(name, text) for name, text in keys.items()}, "flags")
    if options.config is not None:
        options.config_file = one_of_two("CONFIG", options.config, "--config_file", options.config_file, "")
    has_keys = bool(options.restore_path or options.overrides or options.keys)
    if script.needs_config and options.config_file is None and not has_keys:
        raise UsageError(
            "CONFIG",
            expected="a JSON or YAML file, or the name of a configuration",
            got="nothing",
            remedy="`mmaml configs` lists those that come with the package",
        )
    return options


def _parser(script: Script, prog: str | None) -> Parser:
    """The flags that every script has, and those of this one."""
    parser = Parser(
        prog,
        usage=f"%(prog)s {'CONFIG' if script.needs_config else '[CONFIG]'} [options]",
        description=script.description,
        epilog=f"{script.epilog}\n{keys_in_brief()}".strip(),
    )

    def add(name: str, **options: Any) -> str:
        """Add a flag with its synonyms; all its names, as argparse's own messages have them."""
        return "/".join(parser.add_argument(name, *script.synonyms.get(name, ()), **options).option_strings)

    start = "" if script.config_file is None else f" (default of a new run: configs/{script.config_file.name})"
    parser.add_argument(
        "config",
        nargs="?",
        metavar="CONFIG",
        help=f"a JSON or YAML file, or the name of a shipped configuration{start}",
    )
    add("--config_file", metavar="CONFIG", help="another way to give CONFIG")
    add("--algorithm", metavar="NAME", help="what trains (default: as the configuration says)")
    add("--dump_path", metavar="DIR", help="new directory of the run (default: in data/)")
    add("--restore_path", metavar="PATH", help="run directory or checkpoint to continue from")
    add("--resume", action="store_true", help="continue the run in --dump_path where there is one; else start it")
    add(
        "--overrides",
        metavar="JSON",
        nargs="+",  # several words if the shell has split the object at its spaces
        action="append",
        default=[],
        help="a JSON object or KEY=VALUE …, which win over CONFIG; of several the later. Without this flag KEY=VALUE "
        "and --KEY=VALUE set any key too",
    )
    add("--te_save_path", metavar="FILE", help="file for task embeddings (.npz), written at the end")
    add("--log_grad_norm", action="store_true", help="log the norm of the meta-gradient")
    ranks = add("--ranks", type=_count, metavar="N", help="ranks to start (default: one per physical core)")
    for name, flag in script.flags.items():
        text = f"{flag.key}: {flag.text or COMMON_KEYS[flag.key].text}".replace("%", "%%")
        if _kind(flag) is FLAG:
            add(name, action="store_true", default=None, help=text)
        else:
            add(name, type=partial(_value, _kind(flag)), metavar="X", help=text)
    parser.set_defaults(ranks_flag=ranks)
    return parser


def keys_in_brief() -> str:
    """The names of all keys of the configuration; those of algorithms by the algorithm in which they have an effect."""
    groups = dict.fromkeys(key.group for key in COMMON_KEYS.values() if key.group != LEGACY)
    names = {group: [name for name, key in COMMON_KEYS.items() if key.group == group] for group in groups}
    for algorithm in ALGORITHMS:
        own = declaration_of(algorithm)
        names[f'"{algorithm}"'] = [name for name in own.keys if not own.is_idle(name)]
    lines = [
        "keys of CONFIG, --overrides and --KEY=VALUE, explained in docs/configuration.md; those of an algorithm alone,",
        "which `mmaml algorithms NAME` explains, follow its name:",
    ]
    for title, keys in names.items():
        if keys:
            lines += wrap(f"{title}: {', '.join(keys)}", 110, initial_indent="  ", subsequent_indent="    ")
    return "\n".join(lines)


def _kind(flag: Flag) -> Kind:
    return flag.kind or COMMON_KEYS[flag.key].kind


def _count(text: str) -> int:
    return _value(integer(1), text)


def _value(kind: Kind, text: str) -> Any:
    """The value of a flag, as text or as a number, whichever the kind accepts."""
    for convert in (str, int, float):
        try:
            value = convert(text)
        except ValueError:
            continue
        if kind.accepts(value):
            return kind.convert(value)
    raise argparse.ArgumentTypeError(f"expected {kind.expected}, got {text or 'nothing'}")


def resolve(options: argparse.Namespace, algorithm: str, script: Script = PLAIN) -> tuple[Config, dict[str, Any]]:
    """The configuration of the run, and the keys and values that were given for it.

    Defaults, or the configuration of the run that is continued; then the file, the script's flags, --overrides, the
    flags of every script. Reads, but writes nothing. Paths are absolute from the start: a user's code, which is loaded
    on the way, may change the working directory. Raises ConfigError, CheckpointError, or UsageError for a flag and an
    override of one key.
    """
    data = Path(absolute(DEFAULT_FOLDER))
    overrides = _overrides(options)
    file = options.config_file
    if file is None and overrides.get("restore_path") is None:
        file = script.config_file
    values = {} if file is None else read_config_file(find_config("CONFIG", str(file)))
    original, automatic = run_to_continue(values | overrides)
    if automatic:
        overrides |= automatic
        values = {"algorithm": algorithm} | (values if options.config_file is not None else {})
    before = {} if original is None else original.to_dict()
    known = known_keys(({"algorithm": algorithm} | before | values | overrides)["algorithm"])
    for key in options.keys:
        check_key(key, known, options.flags)
    overrides = with_parts(overrides, before | values, known)
    of_flags, given = _of_script_flags(options, script, before | values, overrides)
    values |= of_flags | overrides
    if original is None:
        values = {"algorithm": algorithm} | values
    try:
        config = settled(values, original, data, "" if script.command else Path(sys.argv[0]).stem)
    except ConfigError as error:
        key = error.argument
        raise (error.renamed(f"{given[key]} ({key})") if key in given else error) from error
    return config, values


def _overrides(options: argparse.Namespace) -> dict[str, Any]:
    """Keys and values of --overrides, and of the flags that every script has, which win over it."""
    overrides = laid_over(options.overrides, options.keys)
    overrides |= canonical({n: getattr(options, n) for n in KEYS if getattr(options, n) is not None}, "flags")
    if options.log_grad_norm:
        overrides["log_grad_norm"] = True
    if options.resume:
        overrides["resume"] = "auto"
    return overrides


def _of_script_flags(
    options: argparse.Namespace, script: Script, before: Values, overrides: Values
) -> tuple[dict[str, Any], dict[str, str]]:
    """Keys and values that the script's own flags set, and which flag it was: key -> name.

    before: the keys and values that these are laid over. Raises UsageError for a key that `overrides` sets too.
    """
    values: dict[str, Any] = {}
    given: dict[str, str] = {}
    for name, flag in script.flags.items():
        value = getattr(options, name.lstrip("-").replace("-", "_"))
        if value is None:
            continue
        if flag.key in overrides:
            other = f"--{flag.key}" if flag.key in options.keys else "--overrides"
            raise UsageError(name, f"sets {flag.key}, which {other} sets too", "keep one of them")
        given[flag.key] = name
        values |= {flag.key: value} if flag.settings is None else flag.settings(value, {**before, **values})
    return values, given


def rank_count(config: Config, given: int | None) -> int:
    """How many ranks to start: as given, or one per physical core but no more than there are tasks."""
    check_given_ranks(config, given, None)
    if not config.parallel:
        return 1
    idle_master = 0 if config.master_samples else 1
    return given or min(physical_cores(), config.meta_batch_size + idle_master)


def check_given_ranks(config: Config, given: int | None, connected: int | None, flag: str = "--ranks") -> None:
    """Raise ConfigError if the ranks given, "parallel" and the ranks that mpirun started do not fit together.

    connected: how many are started already, None before. flag: the one that sets `given`.
    """
    wanted = max(given or 1, connected or 1)
    if wanted > 1 and not config.parallel:
        raise ConfigError(
            "parallel",
            expected=f"true with {wanted} ranks",
            got="false",
            remedy='start one rank, or set "parallel": true',
        )
    if connected is not None and given is not None and given != connected:
        raise ConfigError(
            flag, expected=f"the {connected} ranks that mpirun started", got=str(given), remedy="leave it out"
        )
    launch.check_rank_count(wanted, config)
