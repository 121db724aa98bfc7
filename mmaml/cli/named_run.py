"""The flags of run scripts that take the command line of RobvanGastel/meta-rl-algorithms: --name and -c."""

from __future__ import annotations

from pathlib import Path

from mmaml.cli.train import Flag, Script
from mmaml.config.shipped import shipped_configs
from mmaml.config.value_types import TEXT, Kind
from mmaml.storage.starting import Values

FOLDER = "runs"  # of runs that have a name
NAME = Kind(
    f"a path within {FOLDER}/, without '..'",
    lambda v: TEXT.accepts(v) and not Path(v).is_absolute() and ".." not in Path(v).parts and bool(Path(v).parts),
)


def _directory(name: str, before: Values) -> Values:
    return {"dump_path": f"{FOLDER}/{name}"}


def script(config: str | None = None) -> Script:
    """What such a script adds. config: the name of the configuration of a new run that is given none."""
    return Script(
        flags={"--name": Flag("dump_path", NAME, _directory, f"of the run, whose directory is {FOLDER}/NAME")},
        synonyms={"--name": ("-n",), "--config_file": ("-c", "--config")},
        config_file=None if config is None else shipped_configs()[config],
        description="Meta-train. CONFIG is a JSON or YAML file, which may have the keys of meta-rl-algorithms.\n"
        "Without mpirun, starts itself under mpirun with one rank per physical core.",
    )
