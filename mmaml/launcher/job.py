"""What a job has on this machine: processes, a folder, shared memory. Finding it all, and removing it."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import re
import signal
import time

PREFIX = "mmaml-mpirun-"
SEGMENTS = "segments"

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
SECONDS_TO_DIE = 10.0  # after SIGKILL; longer takes only what hangs in the kernel
SECONDS_TO_LOCK = 60.0  # a new folder, at most

SHARED_MEMORY = "/dev/shm"
BACKING_VARIABLE = "OMPI_MCA_btl_sm_backing_directory"


class Process:
    """A process as it was. started: in clock ticks since boot; unique with the id."""

    __slots__ = ("parent", "started", "state")

    def __init__(self, parent: int, state: str, started: int) -> None:
        self.parent = parent
        self.state = state
        self.started = started


def processes() -> dict[int, Process]:
    """Every process that can be seen, by id."""
    found = ((int(name), process(int(name))) for name in os.listdir("/proc") if name.isdecimal())
    return {pid: entry for pid, entry in found if entry is not None}


def process(pid: int) -> Process | None:
    """One process; None if there is none."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            words = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return Process(int(words[1]), words[0], int(words[19]))


def descendants(table: dict[int, Process], ancestor: int, spared: set[int]) -> list[int]:
    """The living children of `ancestor`, theirs and so on; not those in `spared` and what is below them."""
    children = [pid for pid, entry in table.items() if entry.parent == ancestor and pid not in spared]
    living = [pid for pid in children if table[pid].state not in "ZX"]
    return living + [below for pid in children for below in descendants(table, pid, spared)]


def kill_descendants(spared: set[int] | None = None) -> None:
    """Kill everything below this process, which has adopted orphans, and wait until it is gone."""
    limit = time.monotonic() + SECONDS_TO_DIE
    while not childless() and time.monotonic() < limit:
        targets = descendants(processes(), os.getpid(), spared or set())
        if not targets:
            return
        for pid in targets:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
        reap()


def childless() -> bool:
    """Whether this process has no child, not even one that has ended."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return False


def children() -> set[int]:
    """The children of this process."""
    return set() if childless() else {pid for pid, entry in processes().items() if entry.parent == os.getpid()}


def wait_for_children(seconds: float) -> None:
    """Until this process has no child, at most so long."""
    limit = time.monotonic() + seconds
    while not childless() and time.monotonic() < limit:
        reap()
        time.sleep(0.01)


def reap() -> dict[int, int]:
    """The exit codes of this process's children that have ended; -N for signal N."""
    ended = {}
    with contextlib.suppress(ChildProcessError):
        while (result := os.waitpid(-1, os.WNOHANG))[0]:
            ended[result[0]] = os.waitstatus_to_exitcode(result[1])
    return ended


def adopt_orphans() -> None:
    """Become the parent of every process below this one whose parent ends."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int, number: int) -> None:
    """Have this process, a new child of `parent`, sent signal `number` when its parent ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def environment(pid: int) -> dict[str, str]:
    """What `pid` was started with; nothing if it cannot be read."""
    try:
        with open(f"/proc/{pid}/environ", errors="replace") as file:
            return dict(entry.split("=", 1) for entry in file.read().split("\0") if "=" in entry)
    except OSError:
        return {}


def temporary() -> str:
    """The folder for temporary files, whole: ranks may change the folder that they work in."""
    return os.path.abspath(os.environ.get("TMPDIR") or "/tmp")


def shared_memory() -> str:
    """The folder for the shared memory of the ranks."""
    return os.environ.get(BACKING_VARIABLE) or SHARED_MEMORY


def make_folder() -> tuple[str, int]:
    """A new folder for a job, and a descriptor; the folder is locked as long as a process has this one open.

    Those that clear away old temporary files leave locked folders alone. Raises OSError.
    """
    folder = os.path.join(temporary(), f"{PREFIX}{os.getpid()}-{os.urandom(4).hex()}")
    os.mkdir(folder, 0o700)
    lock = os.open(folder, os.O_RDONLY)
    with contextlib.suppress(OSError):  # a file system without locks: nobody will take it for dead
        fcntl.flock(lock, fcntl.LOCK_EX)
    return folder, lock


def note_segments(folder: str, mpirun: int) -> None:
    """Write down which shared memory the ranks that the process `mpirun` starts will have on this machine."""
    names = {os.uname().nodename, os.uname().nodename.partition(".")[0]}
    families = "|".join(f"{family(f'prterun-{name}-{mpirun}'):x}" for name in names)
    with open(os.path.join(folder, SEGMENTS), "w") as file:
        file.write(rf"sm_segment\..*\.{os.geteuid()}\.({families})[0-9a-f]{{4}}\.\d+")


def family(job: str) -> int:
    """The number, of 16 bits, under which Open MPI keeps all of a `job`: Jenkins's one-at-a-time, folded."""
    value = 0
    for byte in job.encode():
        value = (value + byte) * 1025 & 0xFFFFFFFF
        value ^= value >> 6
    value = value * 9 & 0xFFFFFFFF
    value = (value ^ value >> 11) * 32769 & 0xFFFFFFFF
    return (value ^ value >> 16) & 0xFFFF


def remove(folder: str) -> None:
    """Remove a job's shared memory and folder."""
    with contextlib.suppress(OSError):
        with open(os.path.join(folder, SEGMENTS)) as file:
            pattern = re.compile(file.read())
        for name in filter(pattern.fullmatch, os.listdir(shared_memory())):
            os.unlink(os.path.join(shared_memory(), name))
    for path, folders, files in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):
            for name in files:
                os.unlink(os.path.join(path, name))
            for name in folders:
                os.rmdir(os.path.join(path, name))
    with contextlib.suppress(OSError):
        os.rmdir(folder)


def remove_dead() -> None:
    """Remove what jobs of this user have left all of whose processes were killed at once."""
    names: list[str] = []
    with contextlib.suppress(OSError):  # it may be one that can be written, but not listed
        names = os.listdir(temporary())
    for name in names:
        folder = os.path.join(temporary(), name)
        with contextlib.suppress(OSError):
            if not name.startswith(PREFIX) or time.time() - os.stat(folder).st_mtime < SECONDS_TO_LOCK:
                continue
            lock = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: its job lives
                remove(folder)
            finally:
                os.close(lock)
