"""`mpirun` of this project's environment: Open MPI's, made to work as root, in containers and with any rank count.

Started by `.venv/bin/mpirun` with the path of Open MPI's own mpirun and the user's arguments. What can be
said in Open MPI's parameter files is said there, by set_up_mpi.py; here is what depends on the machine and
the moment. A variable or argument that the user gives wins over what is set here.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile

SHARED_MEMORY = "/dev/shm"
SEGMENT_BYTES = 16 << 20  # Open MPI's default of btl_sm_segment_size, per rank

# Open MPI frames its messages with this line. These tell of a rank that ended the run on purpose, after it
# had said why itself; a rank that was killed says nothing, so that message stays.
RULE = b"-" * 74
OPENINGS = (
    b"prterun detected that one or more processes exited",
    b"prterun has exited",
    b"MPI_ABORT was invoked",
)
REDUNDANT = re.compile(
    rb"prterun detected that one or more processes exited with non-zero status"
    rb'|prterun has exited due to process rank .* calling "abort"'
    rb"|MPI_ABORT was invoked"
)
# On every abrupt end: the launcher cannot tell a process that has just gone.
NOISE = re.compile(rb"\[.*\] PMIX ERROR: PMIX_ERR_UNREACH in file ")


def main(mpirun: str, arguments: list[str]) -> None:
    """Become Open MPI's mpirun, with its messages filtered."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    for launcher in ("OMPI", "PRTE"):
        os.environ.setdefault(f"{launcher}_ALLOW_RUN_AS_ROOT", "1")
        os.environ.setdefault(f"{launcher}_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
    if not shared_memory_suffices(rank_count(arguments)):
        os.environ.setdefault("OMPI_MCA_btl_sm_backing_directory", tempfile.gettempdir())
    filter_errors()
    os.execv(mpirun, [mpirun, *arguments])


def rank_count(arguments: list[str]) -> int:
    """The ranks that will share a machine, at most: what -n asks for, by default one a core."""
    for option, value in zip(arguments, arguments[1:], strict=False):
        if option in ("-n", "-np", "--n", "--np", "-c") and value.isdecimal():
            return int(value)
    return os.cpu_count() or 1


def shared_memory_suffices(ranks: int) -> bool:
    """Whether the ranks' message buffers fit; containers are often given 64 MB."""
    try:
        room = os.statvfs(SHARED_MEMORY)
    except OSError:
        return False
    return os.access(SHARED_MEMORY, os.W_OK) and room.f_bavail * room.f_frsize >= ranks * SEGMENT_BYTES


def filter_errors() -> None:
    """Put a process that drops redundant messages between this one's stderr and where it went."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child:
        os.waitpid(child, 0)  # its own child filters: mpirun is to have no child that it did not start
        os.dup2(write_end, 2)
        os.close(read_end)
        os.close(write_end)
        return
    if os.fork() == 0:
        # It ends when the last writer has: an interrupt at the keyboard is not to lose the last words.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        os.close(write_end)
        copy_filtered(read_end, 2)
    os._exit(0)


def copy_filtered(source: int, target: int) -> None:
    """Copy bytes between file descriptors until the end, without redundant messages, holding back nothing else."""
    pending = b""  # not yet written: an unfinished line that may open a message, or a message
    while True:
        chunk = os.read(source, 1 << 16)
        output, pending = filtered(pending + chunk, final=not chunk)
        while output:
            output = output[os.write(target, output) :]
        if not chunk:
            return


def filtered(text: bytes, final: bool = False) -> tuple[bytes, bytes]:
    """(what to write, what to keep until more has come) of `text`, which starts at the start of a line."""
    output = b""
    while text:
        line, newline, rest = text.partition(b"\n")
        if line == RULE and newline:
            message, closing, after = rest.partition(RULE + b"\n")
            if closing and REDUNDANT.match(b" ".join(message.split())):
                text = after
                continue
            if not closing and not final and any(begin_alike(message, opening) for opening in OPENINGS):
                return output, text
        elif not newline and not final and RULE.startswith(line):
            return output, text
        if newline and NOISE.match(line):
            line = newline = b""
        output, text = output + line + newline, rest
    return output, b""


def begin_alike(text: bytes, opening: bytes) -> bool:
    """Whether `text` begins with `opening`, or may once it is complete."""
    return text.startswith(opening) or opening.startswith(text)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
