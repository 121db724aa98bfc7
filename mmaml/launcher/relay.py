"""What Open MPI's mpirun starts in place of ssh: reaches another machine, and keeps a run alive that loses it.

mpirun ends a run as soon as its connection to a daemon on another machine ends. So the daemon is made to connect to
this process, which passes data on in both directions. If a run that has started loses the daemon, mpirun's end of the
connection stays open. The ranks of that machine are lost then; rank 0 notices when they do not answer.
"""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import sys

# python -I leaves out the folder that holds the package. It comes last, for it may hold other packages too.
sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from mmaml.launcher import slurm
from mmaml.launcher.job import kill, reap
from mmaml.launcher.messages import say
from mmaml.launcher.protocol import FOLDER_VARIABLE, STARTED, STOPS, is_over

# Options whose value says where a daemon connects to: "…;tcp://<address>,<address>:<port>:<netmask>,<netmask>".
URI_PARAMETERS = ("prte_hnp_uri", "prte_parent_uri")
ADDRESS = re.compile(r"(;tcp://([\d.]+)[\d.,]*):(\d+):")

SECONDS_TO_CONNECT = 10.0
SECONDS_TICK = 0.5
SECONDS_UNANSWERED = 60  # after which another machine counts as lost


def main(words: list[str]) -> int:
    """Run the remote shell, whose command is `words`; its exit code if no daemon has connected when it ends, else 0.

    "srun", a machine and a command stand for a step of this Slurm job.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # here and in the remote shell: the run outlives the signal
    listener = socket.create_server(("", 0))
    uris = [index + 1 for index, word in enumerate(words[:-1]) if word in URI_PARAMETERS]
    addresses = {(found[2], int(found[3])) for uri in uris if (found := ADDRESS.search(words[uri]))}
    folder = os.environ.get(FOLDER_VARIABLE)
    # With very many machines, daemons start other daemons, which connect to them; those are left as they are.
    if folder is None or len(addresses) != 1:
        words = slurm.command_of_step(words) or words
        os.execvp(words[0], words)
    for uri in uris:
        words[uri] = ADDRESS.sub(rf"\1:{listener.getsockname()[1]}:", words[uri])
    step = slurm.command_of_step(words)
    words = step or words
    try:
        shell = os.posix_spawnp(words[0], words, os.environ)
    except OSError as error:
        say(
            f"error: plm_ssh_agent: expected a program that reaches other machines, got '{words[0]}' "
            f"({error.strerror}); install it, or name another with --prtemca plm_ssh_agent"
        )
        return 127
    try:
        return Relay(listener, addresses.pop(), folder).run(shell, in_step=step is not None)
    finally:
        kill(shell)


class Relay:
    """Connects each daemon that connects to `listener` to mpirun, which listens at `address`. folder: the job's."""

    def __init__(self, listener: socket.socket, address: tuple[str, int], folder: str) -> None:
        self._listener = listener
        self._address = address
        self._folder = folder
        self._others: dict[socket.socket, socket.socket | None] = {}  # the other end; None once it is lost
        self._daemons: set[socket.socket] = set()

    def run(self, shell: int, in_step: bool) -> int:
        """Pass data on until mpirun closes the connection; the exit code of this process.

        shell: the process of the remote shell. in_step: it is srun, which is not needed once a daemon has connected.
        """
        connected, mpirun = False, os.getppid()
        while (self._others or not connected) and os.getppid() == mpirun:
            readable, _, _ = select.select([self._listener, *self._others], [], [], SECONDS_TICK)
            for end in readable:
                if end is self._listener:
                    self._connect()
                    if in_step and not connected:
                        slurm.leave_step(shell)
                    connected = True
                elif end in self._others:
                    self._pass_on(end)
            if not connected and (code := reap().get(shell, 0)):
                return code if code > 0 else 128 - code
        return 0

    def _connect(self) -> None:
        daemon = self._listener.accept()[0]
        try:
            mpirun = socket.create_connection(self._address, SECONDS_TO_CONNECT)
        except OSError:  # mpirun has just ended, and this process will
            daemon.close()
            return
        mpirun.settimeout(None)
        daemon.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SECONDS_UNANSWERED * 1000)
        for end in (daemon, mpirun):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._others |= {daemon: mpirun, mpirun: daemon}
        self._daemons.add(daemon)

    def _pass_on(self, end: socket.socket) -> None:
        other = self._others[end]
        try:
            data = end.recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            self._close(end)
        elif other is not None:
            try:
                other.sendall(data)
            except OSError:
                self._close(other)

    def _close(self, end: socket.socket) -> None:
        """One end is closed: close the other, unless a run that goes on has lost its daemon."""
        other = self._others.pop(end)
        end.close()
        if other is None:
            return
        reports = set(os.listdir(self._folder)) if os.path.isdir(self._folder) else set()
        if end in self._daemons and STARTED in reports and not is_over(reports):
            self._others[other] = None
        else:
            del self._others[other]
            other.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
