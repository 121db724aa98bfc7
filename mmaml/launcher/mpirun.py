"""This project's mpirun: Open MPI's, made to work as root, in containers and with any number of ranks.

Started with the path of Open MPI's own mpirun and the user's arguments, by the `mpirun` that install.py puts into the
environment, or by a run that starts its own ranks. What is set here are defaults: a variable, an argument or a
parameter file of the user's wins.

There are three processes, and whichever is killed, nothing of the job is left behind. This one, which the user sees,
passes signals on and filters messages. Its child supervises. The child of that is Open MPI's mpirun.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

# python -I leaves out the folder that holds the package. It comes last, for it may hold other packages too.
sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from mmaml.launcher import job, machine, slurm
from mmaml.launcher.messages import CONTINUE, copy_filtered, say
from mmaml.launcher.protocol import FOLDER_VARIABLE
from mmaml.launcher.supervisor import TAKEN, Supervisor
from mmaml.process_settings import THREADS

FAULT_TOLERANCE = "--with-ft"
REMOTE_SHELL = "plm_ssh_agent"
DAEMON = "PRTE_MCA_prte_launch_agent"
STARTER = "PRTE_MCA_plm"
HOST_OPTIONS = ("--host", "-H", "--hostfile", "-hostfile", "--machinefile", "-machinefile", "--default-hostfile")
NOT_STARTED = 255  # Open MPI's exit code where it could start nothing on other machines

PARAMETERS = {
    # Probing UCX and libfabric takes a second at every start; messages are few and small.
    "OMPI_MCA_pml": "ob1",
    "OMPI_MCA_btl": "self,sm,tcp",
    # Reading another rank's memory directly is forbidden in many containers.
    "OMPI_MCA_smsc": "^cma",
    # Within a machine a long message goes in pieces, a few at each look. In Open MPI's own of 32 KiB, 20 gradients of
    # 44,000 parameters, 3.5 MB, take 65 looks; in these, 9.
    "OMPI_MCA_btl_sm_max_send_size": "262144",
    # A rank that waits gives way to one that works: other jobs, or more ranks than cores.
    "OMPI_MCA_mpi_yield_when_idle": "1",
    # As many ranks on a machine as it has slots, machine after machine; more ranks than cores are allowed.
    "PRTE_MCA_rmaps_default_mapping_policy": "slot:oversubscribe",
    # Bound ranks of two runs on one machine would share the same first cores.
    "PRTE_MCA_hwloc_default_binding_policy": "none",
    # A daemon that is cut off from the first machine ends after two minutes, and with it the ranks that it started.
    "PRTE_MCA_oob_tcp_keepalive_time": "60",
    "PRTE_MCA_oob_tcp_keepalive_intvl": "10",
    "PRTE_MCA_oob_tcp_keepalive_probes": "6",
}
SESSION_FOLDER = "PRTE_MCA_prte_local_tmpdir_base"  # for Open MPI's files, on this machine only
# Where programs are looked for: a command that ssh starts may not find the Python that this machine finds.
SEARCH_PATH = "PATH"
# Variables that decide on the bits of results: of OpenMP, MKL, OpenBLAS, NumPy, PyTorch and oneDNN.
ARITHMETIC = ("OMP_", "MKL_", "OPENBLAS_", "NPY_", "ATEN_", "ONEDNN_", "DNNL_")
# The user's own parameter files, in which names stand without the prefix. Variables would win over them.
USER_FILES = {"OMPI_MCA_": "~/.openmpi/mca-params.conf", "PRTE_MCA_": "~/.prte/mca-params.conf"}


def main(mpirun: str, arguments: list[str]) -> None:
    """Run Open MPI's mpirun, supervised and with its messages filtered, and exit as the run did."""
    arguments = fault_tolerant(arguments)
    ulfm = FAULT_TOLERANCE in arguments
    if problem := machine.network_problem() or room_problem(arguments):
        say(f"error: {problem}")
        sys.exit(2)
    elsewhere = stay_here(arguments)
    folder, lock = make_folder()
    set_environment(arguments, folder)
    arguments = [*for_other_machines(arguments), *arguments]
    if ulfm:
        arguments = reach_through_relay(arguments)
    message_end, messages = os.pipe()
    life_end, life = os.pipe()  # its other end closes when the supervisor ends, however it ends
    strangers = job.children()  # of the program that became this one
    # nohup and a shell's & have some signals ignored.
    relayed = [number for number in TAKEN if signal.getsignal(number) is not signal.SIG_IGN]
    signal.pthread_sigmask(signal.SIG_BLOCK, relayed)
    job.adopt_orphans()
    front = os.getpid()
    supervisor = os.fork()
    if supervisor == 0:
        os.close(message_end)
        os.close(life_end)
        os.dup2(messages, 2)
        os.close(messages)
        job.adopt_orphans()
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGQUIT])
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)  # a shell's & has it ignored, and it would not arrive
        job.die_with_parent(front, signal.SIGQUIT)
        os._exit(Supervisor([mpirun, *arguments], folder, {*relayed, signal.SIGQUIT}, ulfm).run())
    os.close(messages)
    os.close(life)
    relay(relayed, supervisor)
    copy_filtered(message_end, life_end, 2)
    signal.pthread_sigmask(signal.SIG_BLOCK, relayed)  # the exit code stands
    status = os.waitstatus_to_exitcode(os.waitpid(supervisor, 0)[1])
    if status < 0:
        job.kill_descendants(strangers)
        job.remove(folder)
        say(f"error: the supervisor of mpirun was killed, and the run with it; {CONTINUE}")
        status = 128 - status
    if status == NOT_STARTED and elsewhere:
        say(f"advice: {elsewhere}; for ranks on this machine alone, unset SLURM_JOBID")
    os.close(lock)
    sys.exit(status)


def fault_tolerant(arguments: list[str]) -> list[str]:
    """The arguments, with Open MPI's handling of lost ranks unless they hold this launcher's `--with-ft none`."""
    if FAULT_TOLERANCE not in arguments:
        return [FAULT_TOLERANCE, "ulfm", *arguments]
    option = arguments.index(FAULT_TOLERANCE)
    return arguments[:option] + arguments[option + 2 :] if arguments[option + 1 : option + 2] == ["none"] else arguments


def make_folder() -> tuple[str, int]:
    """The job's folder and its lock; exits if there can be none."""
    try:
        return job.make_folder()
    except OSError as error:
        sys.exit(
            f"error: TMPDIR: expected a folder that can be written, got '{job.temporary()}' ({error.strerror}); "
            "set it to another"
        )


def set_environment(arguments: list[str], folder: str) -> None:
    """Set the variables that Open MPI and the ranks read, where the user has not."""
    for parameter in PARAMETERS.keys() - set_in_files():
        os.environ.setdefault(parameter, PARAMETERS[parameter])
    for variable in THREADS:
        os.environ.setdefault(variable, "1")
    for launcher in ("OMPI", "PRTE"):
        os.environ.setdefault(f"{launcher}_ALLOW_RUN_AS_ROOT", "1")
        os.environ.setdefault(f"{launcher}_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
    if not os.environ.get("HOME"):  # without which Open MPI does not start
        os.environ["HOME"] = machine.home(otherwise=folder)
    if not machine.has_room(job.SHARED_MEMORY, rank_count(arguments, os.cpu_count() or 1)):
        os.environ.setdefault(job.BACKING_VARIABLE, job.temporary())
    if not any("tmpdir_base" in word for word in (*os.environ, *arguments)):
        os.environ[SESSION_FOLDER] = folder
    os.environ[FOLDER_VARIABLE] = folder
    if "TMPDIR" in os.environ:
        os.environ["TMPDIR"] = job.temporary()


def set_in_files() -> set[str]:
    """The parameters that the user's own files set, as variables are named."""
    found = set()
    for prefix, file in USER_FILES.items():
        with contextlib.suppress(OSError), open(os.path.expanduser(file), errors="replace") as lines:
            found |= {prefix + line.partition("=")[0].strip() for line in lines if "=" in line}
    return found


def for_other_machines(arguments: list[str]) -> list[str]:
    """Arguments that give ranks on other machines the variables of this one by which they find and do the same."""
    given = {word.partition("=")[0] for word in arguments}
    wanted = [name for name in sorted(os.environ) if name == SEARCH_PATH or name.startswith(ARITHMETIC)]
    return [word for name in wanted if name not in given for word in ("-x", name)]


def reach_through_relay(arguments: list[str]) -> list[str]:
    """Have the remote shell started by relay.py, and daemons by shield.py.

    The remote shell is ssh or, in a Slurm job, srun, unless the user says otherwise.
    """
    relay, shield = through("relay.py"), through("shield.py")
    if relay is None or shield is None:
        return arguments
    chosen = {*arguments, *os.environ, *set_in_files()}
    if DAEMON not in chosen:
        os.environ[DAEMON] = f"{shield} prted"
    variable, shell = f"PRTE_MCA_{REMOTE_SHELL}", "ssh"
    if slurm.reaches_others(chosen):
        os.environ[STARTER], shell = "ssh", slurm.SRUN
    os.environ[variable] = f"{relay} {os.environ.get(variable, shell)}"
    pairs = zip(["", *arguments], arguments, strict=False)
    return [f"{relay} {word}" if before == REMOTE_SHELL else word for before, word in pairs]


def through(file: str) -> str | None:
    """The words that start a file of this folder, for Open MPI to split; None if it would split them wrongly."""
    words = f"{sys.executable} -I -S {os.path.join(os.path.dirname(os.path.abspath(__file__)), file)}"
    return words if words.count(" ") == 3 and ":" not in words else None


def rank_count(arguments: list[str], default: int) -> int:
    """How many ranks will share a machine at most: what -n asks for, else `default`."""
    for option, value in zip(arguments, arguments[1:], strict=False):
        if option in ("-n", "-np", "--n", "--np", "-c") and value.isdecimal():
            return int(value)
    return default


def room_problem(arguments: list[str]) -> str:
    """What is to be said where no folder of this machine has room for the ranks' message buffers, else "".

    Where the user has set a folder for them, or some of the ranks may be on other machines, nobody knows here.
    """
    given = any(name in os.environ for name in (job.BACKING_VARIABLE, "OMPI_MCA_btl", machine.NODE_LIST))
    return "" if given or {*HOST_OPTIONS} & {*arguments} else machine.room_problem(rank_count(arguments, 1))


def stay_here(arguments: list[str]) -> str:
    """Have the ranks start on this machine where the variables of a Slurm job name others that cannot be reached.

    Returns, for a run that does not start, that they name others, "" where they do not.
    """
    if {*HOST_OPTIONS} & {*arguments} or not (nodes := machine.foreign_nodes()):
        return ""
    named = ", ".join(nodes[:3]) + (", …" if len(nodes) > 3 else "")
    text = f"{machine.NODE_LIST} names {named}, which is not this machine, {os.uname().nodename}"
    if not machine.could_reach(nodes[0]):
        for part in ("ras", "plm"):  # which find a job's machines, and start daemons on them
            os.environ.setdefault(f"PRTE_MCA_{part}", "^slurm")
        say(f"notice: {text}, and cannot be reached: the ranks start here; unset SLURM_JOBID to be spared this")
    return text


def relay(signals: list[signal.Signals], supervisor: int) -> None:
    """From now on pass `signals` on to the supervisor; Ctrl-Z stops this process too."""

    def pass_on(number: int, _: object) -> None:
        os.kill(supervisor, number)
        if number == signal.SIGTSTP:
            os.kill(os.getpid(), signal.SIGSTOP)

    for number in signals:
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
