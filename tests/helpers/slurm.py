"""A Slurm cluster for tests, on this machine: each node is a host of hosts.py, which also has OpenSSH's server.

Host 0 is where jobs are submitted; the controller runs there. The other hosts are the nodes. All addresses are those of
the hosts' own network, which nothing outside can reach.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.helpers.hosts import Hosts, HostsRefusedError
from tests.helpers.waiting import wait_until

PROGRAMS = ("slurmctld", "slurmd", "srun", "sbatch", "scontrol", "scancel", "munged", "sshd", "ssh", "ssh-keygen")
PACKAGES = "slurmctld slurmd slurm-client munge openssh-server openssh-client"
CPUS = 4  # of a node, as Slurm is told

# Steps of a job must have started `cred_expire` seconds after its start, and a requeued job waits for as long, since
# they may do so in its name: 120 s by default.
SLURM_CONF = """
ClusterName=tests
SlurmctldHost=node0({addresses[0]})
SlurmUser=root
SlurmdUser=root
AuthInfo=cred_expire=5
StateSaveLocation=/run/slurmctld
SlurmdSpoolDir=/run/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile={logs}/slurmctld.log
SlurmdLogFile={logs}/%n.log
SlurmdParameters=config_overrides
SlurmdTimeout=10
ReturnToService=2
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_min_interval=100000,batch_sched_delay=0,sched_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
KillWait=30
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
"""
PARTITIONS = """
PartitionName=all Nodes=ALL Default=YES PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL PriorityTier=2 PreemptMode=OFF
"""
SSHD_CONFIG = """
HostKey {keys}/host
AuthorizedKeysFile {keys}/user.pub
PermitRootLogin yes
StrictModes no
UsePAM no
PrintMotd no
PidFile none
"""
SSH_CONFIG = """
Host *
IdentityFile {keys}/user
UserKnownHostsFile /dev/null
StrictHostKeyChecking no
LogLevel ERROR
"""
# What a host has of its own, under the names that the programs expect.
SET_UP = """
mount -t tmpfs run /run
mkdir /run/munge /run/sshd /run/slurmctld /run/slurmd
mount --bind {folder}/slurm {slurm}
mount --bind {folder}/hosts /etc/hosts
mount --bind {folder}/ssh_config /etc/ssh/ssh_config
"""
SLURM_FOLDER = Path("/etc/slurm")


class Slurm:
    """A cluster of `nodes` nodes that share `folder`. Raises HostsRefusedError."""

    def __init__(self, folder: Path, nodes: int = 3) -> None:
        for program in PROGRAMS:
            if shutil.which(program, path=f"{os.defpath}:/usr/sbin:/sbin") is None:
                raise HostsRefusedError(f"there is no program {program}; apt-get install {PACKAGES}")
        if not SLURM_FOLDER.is_dir():
            raise HostsRefusedError(f"Slurm has no folder {SLURM_FOLDER}, where Debian's expects its configuration")
        self.folder = folder
        self.hosts = Hosts(folder, 1 + nodes)
        self._daemons: list[subprocess.Popen[bytes]] = []
        try:
            self._start(nodes)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Slurm:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Switch all off."""
        for daemon in reversed(self._daemons):
            daemon.kill()
            daemon.wait()
        self.hosts.close()

    def run(self, *words: str) -> str:
        """The output of a command on host 0."""
        return self.hosts.run(0, *words)

    def start(self, host: int, *words: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """A daemon on a host, ended with the cluster."""
        log = open(self._own / f"{Path(words[0]).name}{host}.out", "wb")  # noqa: SIM115
        with log:
            daemon = subprocess.Popen(
                [*self.hosts.enter(host), *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env
            )
        self._daemons.append(daemon)
        return daemon

    def submit(self, script: str, *options: str, folder: Path, env: Mapping[str, str] | None = None) -> str:
        """Queue a job script, which starts in `folder`; the job's id."""
        command = [*self.hosts.enter(0), "sbatch", "--parsable", "--chdir", str(folder), *options]
        answer = subprocess.run(command, input=script, capture_output=True, text=True, env=env)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        """What Slurm knows of a job."""
        words = self.run("scontrol", "--oneliner", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait_for(self, number: str, *states: str) -> dict[str, str]:
        """What Slurm knows of a job once it is in one of these states."""
        return wait_until(lambda: found if (found := self.job(number))["JobState"] in states else None)

    def _start(self, nodes: int) -> None:
        self._own = own = Path(tempfile.mkdtemp(prefix="slurm-", dir=self.folder))
        names = [f"node{host}" for host in range(1 + nodes)]
        hosts = dict(zip(names, self.hosts.addresses, strict=True))
        conf = SLURM_CONF.format(addresses=self.hosts.addresses, logs=own)
        for name in names[1:]:
            conf += f"NodeName={name} NodeAddr={hosts[name]} CPUs={CPUS} State=UNKNOWN\n"
        (own / "slurm").mkdir()
        (own / "slurm" / "slurm.conf").write_text(conf + PARTITIONS)
        (own / "hosts").write_text("127.0.0.1 localhost\n" + "".join(f"{hosts[name]} {name}\n" for name in names))
        (own / "munge.key").write_bytes(os.urandom(1024))
        (own / "munge.key").chmod(0o400)
        for name in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(own / name)], check=True)
        (own / "ssh_config").write_text(SSH_CONFIG.format(keys=own))
        (own / "sshd_config").write_text(SSHD_CONFIG.format(keys=own))
        set_up = SET_UP.format(folder=own, slurm=SLURM_FOLDER)
        munged = [f"--{name}={own}/munge{{host}}.{name}" for name in ("log-file", "seed-file")]
        for host in range(1 + nodes):
            self.hosts.run(host, "sh", "-ec", set_up)
            options = [option.format(host=host) for option in munged]
            self.start(host, "/usr/sbin/munged", "--foreground", "--force", f"--key-file={own}/munge.key", *options)
            if host:
                self.start(host, "/usr/sbin/sshd", "-D", "-e", "-f", str(own / "sshd_config"))
        self.start(0, "/usr/sbin/slurmctld", "-D")
        for host in range(1, 1 + nodes):
            self.start(host, "/usr/sbin/slurmd", "-D", "-N", f"node{host}")
        wait_until(lambda: self._idle() == nodes)

    def _idle(self) -> int:
        sinfo = subprocess.run([*self.hosts.enter(0), "sinfo", "-hN", "-o", "%T"], capture_output=True, text=True)
        return sinfo.stdout.split().count("idle") // 2  # in two partitions
