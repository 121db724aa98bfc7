"""What the user reads of mpirun: Open MPI's messages, without those that add nothing, and the launcher's own lines."""

from __future__ import annotations

import contextlib
import os
import re
import select

CONTINUE = "--restore_path with the run's folder continues from its last checkpoint"

# Open MPI frames its messages with this line. The messages below report a rank that ended the run on purpose, and has
# printed why. A rank that was killed has printed nothing, so the message on that stays.
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
# On a process or a pipe that has just ended, or is not there yet: without consequences, and naming no cause.
NOISE = re.compile(
    rb"\[.*\] PMIX ERROR: PMIX_ERR_UNREACH in file |\[warn\] Epoll MOD|\[.*\] plm:ssh: Warning: setpgid"
    rb"|\[.*\] PRTE ERROR: Not found in file \S*/odls_base_default_fns\.c "
    rb"|srun: cluster configuration lacks support for cpu binding"
)

SECONDS_OF_SILENCE = 1.0  # after which nothing more is expected of a job that has ended


def say(line: str) -> None:
    """Print one line on stderr, which nobody may read any more."""
    with contextlib.suppress(OSError):
        os.write(2, line.encode() + b"\n")


def copy_filtered(source: int, life: int, target: int) -> None:
    """Copy bytes from `source` to `target` as they come, without redundant messages.

    Ends when `source` does, or is silent after the end of `life`.
    """
    pending = b""  # not yet written: what may be, or become, a redundant message
    alive = True
    while True:
        watched, timeout = ([source, life], None) if alive else ([source], SECONDS_OF_SILENCE)
        readable = select.select(watched, [], [], timeout)[0]
        chunk = os.read(source, 1 << 16) if source in readable else b""
        ended = not chunk and (source in readable or not alive)
        alive = alive and life not in readable
        output, pending = filtered(pending + chunk, final=ended)
        with contextlib.suppress(OSError):  # nobody reads any more, but the run goes on
            while output:
                output = output[os.write(target, output) :]
        if ended:
            return


def filtered(text: bytes, final: bool = False) -> tuple[bytes, bytes]:
    """Split `text`, which starts a line, into what to write and what to keep until more has come."""
    output, text = b"", text.replace(b"\0", b"")  # with which some messages end
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
