"""What this machine gives a job: a network, shared memory, a home; and whether a job of Slurm's is one of here."""

from __future__ import annotations

import errno
import os
import pwd
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator

from mmaml.launcher import job

SEGMENT_BYTES = 16 << 20  # Open MPI's default of btl_sm_segment_size, per rank
NODE_LIST = "SLURM_JOB_NODELIST"
OLD_NODE_LIST = "SLURM_NODELIST"
SECONDS_FOR_SLURM = 10.0  # to say its version


def network_problem() -> str:
    """What is wrong with the network that the processes of a machine reach each other by, "" where it is there."""
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            with socket.socket() as client:
                client.connect(listener.getsockname())
        except OSError as error:
            if error.errno in (errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.ENETDOWN):
                return (
                    "network: the loopback interface is down, by which the ranks of a machine reach each other; "
                    "ip link set lo up, or start one process with --ranks 1"
                )
    return ""


def has_room(folder: str, ranks: int) -> bool:
    """Whether the ranks' message buffers fit into a folder that can be written."""
    return os.access(folder, os.W_OK) and free_bytes(folder) >= ranks * SEGMENT_BYTES


def free_bytes(folder: str) -> int:
    """How much can be written into a folder, 0 if there is none."""
    try:
        room = os.statvfs(folder)
    except OSError:
        return 0
    return room.f_bavail * room.f_frsize


def room_problem(ranks: int) -> str:
    """What is to be said where neither shared memory nor the folder for temporary files holds the buffers, else ""."""
    if has_room(job.SHARED_MEMORY, ranks) or has_room(job.temporary(), ranks):
        return ""
    shared, temporary = (free_bytes(folder) >> 20 for folder in (job.SHARED_MEMORY, job.temporary()))
    return (
        f"shared memory: {ranks} rank{'s' * (ranks > 1)} need {ranks * SEGMENT_BYTES >> 20} MiB, but "
        f"'{job.SHARED_MEMORY}' has {shared} MiB and TMPDIR, '{job.temporary()}', has {temporary} MiB; enlarge one of "
        "them (docker run --shm-size=1g), set TMPDIR to another folder, or start fewer ranks"
    )


def home(otherwise: str) -> str:
    """The home of this user as the system knows it; `otherwise` if there is none that exists."""
    try:
        entry = pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:  # a user who is only a number, as in many containers
        return otherwise
    return entry if os.path.isdir(entry) else otherwise


def foreign_nodes() -> list[str]:
    """The machines of the Slurm job whose variables are set, unless this is one of them or there is no such job.

    A container that is given the variables of the job in which it runs has a name of its own.
    """
    if "SLURM_JOBID" not in os.environ:
        return []
    nodes = [*node_names(os.environ.get(NODE_LIST) or os.environ.get(OLD_NODE_LIST, ""))]
    here = os.uname().nodename
    return [] if {here, _short(here)} & {*nodes, *map(_short, nodes)} else nodes


def could_reach(node: str) -> bool:
    """Whether Open MPI could start processes on another machine: by Slurm, or by ssh where its name is known.

    A network without a name server may take seconds to say that it knows none: ask for one of a job's machines.
    """
    return _slurm_works() or _is_known(node)


def node_names(text: str) -> Iterator[str]:
    """The names that Slurm writes as "a[1-3,07],b"."""
    for name in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text):
        yield from _expanded(name)


def _expanded(name: str) -> Iterator[str]:
    before, bracket, rest = name.partition("[")
    if not bracket:
        yield name
        return
    numbers, _, after = rest.partition("]")
    for part in numbers.split(","):
        first, _, last = part.partition("-")
        if not (first.isdecimal() and (last or first).isdecimal()):
            continue
        for number in range(int(first), int(last or first) + 1):
            for end in _expanded(after):
                yield f"{before}{number:0{len(first)}d}{end}"


def _short(name: str) -> str:
    return name.partition(".")[0]


def _is_known(name: str) -> bool:
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        return False
    return True


def _slurm_works() -> bool:
    """Whether Slurm's srun is here and can read its configuration."""
    if (srun := shutil.which("srun")) is None:
        return False
    try:
        return subprocess.run([srun, "--version"], capture_output=True, timeout=SECONDS_FOR_SLURM).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False
