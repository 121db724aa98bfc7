"""What a job has on this machine: processes, a folder, shared memory. Finds all of it, and removes it."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import re
import signal
import time
from collections.abc import Iterable

PREFIX = "mmaml-mpirun-"
SEGMENTS = "segments"

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
SECONDS_TO_DIE = 30.0  # after SIGKILL; only what hangs in the kernel takes longer
SECONDS_TO_LOCK = 60.0  # at most, from making a folder to locking it
MAX_TICK = 1.0  # seconds between two looks count as no more: the process that looks may have been stopped itself

SHARED_MEMORY = "/dev/shm"
BACKING_VARIABLE = "OMPI_MCA_btl_sm_backing_directory"


class ProcessState:
    """A process as it was when it was looked at.

    state: Linux's letter. started: in clock ticks since boot, unique together with the id. computed: clock ticks that
    it has used of the processors.
    """

    __slots__ = ("computed", "parent", "started", "state")

    def __init__(self, parent: int, state: str, started: int, computed: int) -> None:
        self.parent = parent
        self.state = state
        self.started = started
        self.computed = computed


def processes() -> dict[int, ProcessState]:
    """Every process that can be seen, by id."""
    found = ((int(name), state_of(int(name))) for name in os.listdir("/proc") if name.isdecimal())
    return {pid: entry for pid, entry in found if entry is not None}


def state_of(pid: int) -> ProcessState | None:
    """One process; None if there is none, or no /proc to see it in."""
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as file:  # it has the process's name, which may be any bytes
            words = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return ProcessState(int(words[1]), words[0], int(words[19]), int(words[11]) + int(words[12]))


def lives(pid: int, started: int) -> bool:
    """Whether the process of this number that started then is alive; another may have its number by now."""
    found = state_of(pid)
    return found is not None and found.started == started and found.state not in "ZX"


class OwnTime:
    """How long processes have had time of their own while they were watched.

    The time in which a process waits for a processor or a disk is not its own. So other load on the machine takes
    nothing from it.
    """

    __slots__ = ("_last", "_spent")

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._spent: dict[int, Spent] = {}

    def look(self, pids: Iterable[int], paused: bool = False) -> None:
        """Watch `pids` from now on, and count the time since the last look for those watched before.

        paused: that time does not count.
        """
        now = time.monotonic()
        passed = 0.0 if paused else min(now - self._last, MAX_TICK)
        found = {pid: entry for pid in pids if (entry := state_of(pid)) is not None}
        self._spent = {pid: Spent(entry, self._spent.get(pid), passed) for pid, entry in found.items()}
        self._last = now

    def of(self, pid: int) -> Spent:
        """What a process has had so far; nothing if it is not watched."""
        return self._spent.get(pid) or NOTHING


class Spent:
    """A process, and seconds of its own: all, and those since it was last not stopped by a signal."""

    __slots__ = ("process", "seconds", "stopped")

    def __init__(self, process: ProcessState, before: Spent | None, passed: float) -> None:
        self.process = process
        self.seconds = self.stopped = 0.0
        if before is None or before.process.started != process.started:
            return
        waits = process.state == "D" or (process.state == "R" and process.computed == before.process.computed)
        own = 0.0 if waits else passed
        self.seconds = before.seconds + own
        self.stopped = before.stopped + own if process.state in "Tt" else 0.0


NOTHING = Spent(ProcessState(0, "X", 0, 0), None, 0.0)


def descendants(table: dict[int, ProcessState], ancestor: int, spared: set[int]) -> list[int]:
    """The living children of `ancestor`, theirs and so on; not those in `spared` and what is below them."""
    children = [pid for pid, entry in table.items() if entry.parent == ancestor and pid not in spared]
    living = [pid for pid in children if table[pid].state not in "ZX"]
    return living + [below for pid in children for below in descendants(table, pid, spared)]


def kill_tree(pid: int) -> None:
    """Kill a process and everything below it."""
    for target in [pid, *descendants(processes(), pid, set())]:
        kill(target)


def kill(pid: int) -> None:
    """Kill a process, which may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kill_descendants(spared: set[int] | None = None) -> None:
    """Kill everything below this process, which has adopted orphans, and wait until it is gone."""
    limit = time.monotonic() + SECONDS_TO_DIE
    while not childless() and time.monotonic() < limit:
        targets = descendants(processes(), os.getpid(), spared or set())
        if not targets:
            return
        for pid in targets:
            kill(pid)
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
    """Wait until this process has no child, or until one has had `seconds` of its own time (`OwnTime`)."""
    watch = OwnTime()
    while pids := children():
        watch.look(pids)
        if any(watch.of(pid).seconds > seconds for pid in pids):
            return
        time.sleep(0.05)
        reap()


def reap() -> dict[int, int]:
    """The exit codes of this process's children that have ended, by id; -N for signal N."""
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
    """The folder for temporary files, as an absolute path: ranks may change their working directory."""
    return os.path.abspath(os.environ.get("TMPDIR") or "/tmp")


def shared_memory() -> str:
    """The folder for the shared memory of the ranks."""
    return os.environ.get(BACKING_VARIABLE) or SHARED_MEMORY


def make_folder() -> tuple[str, int]:
    """A new folder for a job, and its lock: a descriptor, which locks the folder as long as a process has it open.

    systemd-tmpfiles and `remove_dead` leave locked folders alone. Raises OSError.
    """
    folder = os.path.join(temporary(), f"{PREFIX}{os.getpid()}-{os.urandom(4).hex()}")
    os.mkdir(folder, 0o700)
    lock = os.open(folder, os.O_RDONLY)
    with contextlib.suppress(OSError):  # on a file system without locks, `remove_dead` cannot lock it either
        fcntl.flock(lock, fcntl.LOCK_EX)
    return folder, lock


def note_segments(folder: str, mpirun: int) -> None:
    """Write a pattern of the names of the shared memory that ranks of the process `mpirun` have on this machine."""
    names = {os.uname().nodename, os.uname().nodename.partition(".")[0]}
    families = "|".join(f"{family(f'prterun-{name}-{mpirun}'):x}" for name in names)
    with open(os.path.join(folder, SEGMENTS), "w") as file:
        file.write(rf"sm_segment\..*\.{os.geteuid()}\.({families})[0-9a-f]{{4}}\.\d+")


def family(job: str) -> int:
    """The 16 bits that Open MPI makes of the name of a `job`: Jenkins's one-at-a-time hash, folded."""
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
    """Remove what this user's jobs have left behind whose processes were all killed at once."""
    names: list[str] = []
    with contextlib.suppress(OSError):  # a folder may be writable without being readable
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
