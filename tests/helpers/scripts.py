"""The run scripts, what they leave in a folder, and the job script."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "run_scripts" / "mumo_run_point_mass.py"
PROMP_SCRIPT = ROOT / "run_scripts" / "pro-mp_run_point_mass.py"


def job_script() -> str:
    """The documentation's example of a job for Slurm."""
    return (ROOT / "docs" / "mpi.md").read_text().split("```bash\n")[1].split("```")[0]


def everything_in(folder: Path) -> dict[Path, int]:
    """Every file and folder under a folder, with the time of the last change of each file, in nanoseconds."""
    return {path: 0 if path.is_dir() else path.lstat().st_mtime_ns for path in folder.rglob("*")}
