"""Machines for tests, on this one: each has namespaces of its own for network, name, processes and temporary files.

Host 0 is where mpirun is started. It has a switch, with a cable to each of the others. On each of these runs this
file's server in place of sshd, and this file's client is the remote shell.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

NETWORK = "10.77.0."
SECONDS_TO_START = 20.0
SSHD_PATH = "/usr/local/bin:/usr/bin:/bin"  # what a command over ssh starts with, whatever the user's is here

# $1: name; $2: folder that every host sees; the rest: what to run. The first host keeps the machine's /tmp.
START = """
hostname "$1"; ip link set lo up; mount -t tmpfs shm /dev/shm
if [ "$1" != node0 ]; then
    mkdir /dev/shm/shared; mount --bind "$2" /dev/shm/shared; mount -t tmpfs tmp /tmp
    mkdir -p "$2"; mount --bind /dev/shm/shared "$2"; umount /dev/shm/shared; rmdir /dev/shm/shared
fi
shift 2; exec "$@"
"""


class HostsRefusedError(Exception):
    """Namespaces may not be made here, and why."""


class Hosts:
    """`count` hosts that share `folder`. Raises HostsRefusedError."""

    def __init__(self, folder: Path, count: int) -> None:
        self._sockets = Path(tempfile.mkdtemp(prefix="hosts-", dir=folder))
        self._folder = folder
        self._starters: list[subprocess.Popen[bytes]] = []
        self._inits: list[int] = []
        self.addresses = [f"{NETWORK}{1 + host}" for host in range(count)]
        try:
            self._check()
            self._start_first()
            for host in range(1, count):
                self._start(host)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Hosts:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Switch all off."""
        for starter in reversed(self._starters):
            starter.kill()
            starter.wait()

    def options(self, slots: int = 1) -> list[str]:
        """Arguments with which mpirun starts `slots` ranks on each host, in their order."""
        agent = f"{sys.executable} {__file__} reach {self._sockets}"
        return ["--prtemca", "plm_ssh_agent", agent, "--host", ",".join(f"{name}:{slots}" for name in self.addresses)]

    def enter(self, host: int) -> list[str]:
        """The command that runs another, with absolute paths, on `host`."""
        own_processes = ["--pid"] if host else []
        return ["nsenter", "-t", str(self._inits[host]), "--net", "--uts", "--mount", *own_processes]

    def run(self, host: int, *words: str) -> str:
        """The output of a command on `host`."""
        return subprocess.run([*self.enter(host), *words], check=True, capture_output=True, text=True).stdout

    def cut(self, host: int) -> None:
        """Pull the cable of `host`."""
        self.run(0, "ip", "link", "set", f"cable{host}", "down")

    def processes(self, host: int) -> list[str]:
        """The commands that run on `host`, not 0, besides its server and the question."""
        lines = [line.split(None, 2) for line in self.run(host, "ps", "-axo", "pid=,stat=,args=").splitlines()]
        return [line[2] for line in lines if line[0] != "1" and line[1][0] != "Z" and "ps -axo" not in line[2]]

    def files(self, host: int) -> set[str]:
        """What lies in memory, and on other hosts than 0 in /tmp, besides the folder that all see."""
        shared = {str(folder) for folder in (self._folder, *self._folder.parents)}
        places = ["/dev/shm", "/tmp"] if host else ["/dev/shm"]
        found = self.run(host, "find", *places, "-mindepth", "1", "-path", str(self._folder), "-prune", "-o", "-print")
        return set(found.splitlines()) - shared

    def _check(self) -> None:
        if os.geteuid() != 0:
            raise HostsRefusedError("only root may make namespaces")
        for needed in (sys.prefix, __file__):
            if Path(needed).is_relative_to("/tmp"):
                raise HostsRefusedError(f"each has a /tmp of its own, and '{needed}' is in this one")
        for program in ("ip", "unshare", "nsenter", "ps"):
            if shutil.which(program) is None:
                raise HostsRefusedError(f"there is no program {program}")

    def _start_first(self) -> None:
        self._launch(0, ["unshare", "--net", "--uts", "--mount"], ["sleep", "infinity"])
        self._inits.append(self._starters[0].pid)
        self._wait(lambda: self._name(0) == "node0")
        for command in ("add name switch type bridge", "set switch up"):
            self.run(0, "ip", "link", *command.split())
        self.run(0, "ip", "address", "add", f"{self.addresses[0]}/24", "dev", "switch")

    def _start(self, host: int) -> None:
        separate = ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        server = self._sockets / self.addresses[host]
        self._launch(host, [*self.enter(0), *separate], [sys.executable, __file__, "serve", str(server)])
        self._wait(server.exists)
        starter = self._starters[host].pid
        self._inits.append(int(Path(f"/proc/{starter}/task/{starter}/children").read_text()))
        cable = f"add name cable{host} type veth peer name eth0 netns {self._inits[host]}"
        for command in (cable, f"set cable{host} master switch up"):
            self.run(0, "ip", "link", *command.split())
        self.run(host, "ip", "address", "add", f"{self.addresses[host]}/24", "dev", "eth0")
        self.run(host, "ip", "link", "set", "eth0", "up")

    def _launch(self, host: int, separate: Sequence[str], program: Sequence[str]) -> None:
        start = ["sh", "-ec", START, "start", f"node{host}", str(self._folder), *program]
        self._starters.append(subprocess.Popen([*separate, *start], stderr=subprocess.PIPE))

    def _name(self, host: int) -> str:
        return self.run(host, "hostname").strip()

    def _wait(self, condition) -> None:  # type: ignore[no-untyped-def]
        limit = time.monotonic() + SECONDS_TO_START
        while not condition():
            starter = self._starters[-1]
            if starter.poll() is not None:
                assert starter.stderr is not None
                raise HostsRefusedError(starter.stderr.read().decode().strip())
            assert time.monotonic() < limit
            time.sleep(0.02)


def serve(path: str) -> None:
    """Run the commands that clients send to the socket `path`, as a login shell would."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{path}.new")
    listener.listen()
    os.rename(f"{path}.new", path)
    while True:
        connection = listener.accept()[0]
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


def answer(connection: socket.socket) -> None:
    environment = {"PATH": SSHD_PATH, "HOME": os.environ.get("HOME", "/")}
    command = connection.makefile().readline()
    code = subprocess.run(command, shell=True, cwd="/", env=environment, stdin=subprocess.DEVNULL).returncode
    connection.sendall(str(code % 256).encode())
    connection.close()


def reach(sockets: str, address: str, *words: str) -> int:
    """The exit code of a command on another host."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(Path(sockets, address)))
    connection.sendall(" ".join(words).encode() + b"\n")
    return int(connection.recv(16) or "255")


if __name__ == "__main__":
    {"serve": serve, "reach": lambda *words: sys.exit(reach(*words))}[sys.argv[1]](*sys.argv[2:])
