"""`mmaml.train` on several ranks: they run under mpirun, and what rank 0 reports comes back through a pipe.

The program that calls `train_on_ranks` starts `python -m mmaml.api.ranks FOLDER` under mpirun. The folder holds the
configuration and a named pipe. Rank 0 writes into it, as a line of JSON each, {"row": …} after every iteration and at
the end {"outcome": …}, an error that was raised or null. Where the pipe has no reader any more, the run ends.
"""

from __future__ import annotations

import base64
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from io import RawIOBase
from pathlib import Path
from threading import Thread
from typing import Any, TextIO

from mmaml import written_paths
from mmaml.api.training import Callback, Row, StopTraining, configured, plain_row
from mmaml.config.keys import Config
from mmaml.errors import Interrupted, RunStopped, UsageError
from mmaml.launcher.protocol import ended, is_first_rank
from mmaml.parallel import launch
from mmaml.parallel.shutdown import shutdown
from mmaml.process_settings import end_without_collection, prepare_process

VALUES, PIPE = "values.json", "rows"
SECONDS_BETWEEN_LOOKS = 0.1  # at a pipe that nobody has opened yet, or nobody has any more


def train_on_ranks(
    config: Config,
    values: Mapping[str, Any],
    ranks: int,
    directory: str,
    callbacks: Sequence[Callback],
    show: bool,
) -> None:
    """Train on `ranks` ranks under mpirun.

    config: the whole configuration; values: the keys and values that it was made of; directory: where the ranks start.
    Raises what `mmaml.train` does.
    """
    _check(config, ranks)
    with tempfile.TemporaryDirectory(prefix="mmaml-") as name, ExitStack() as stack:
        folder = Path(name)
        content = {"values": {**values, "dump_path": config.dump_path}, "paths": written_paths.remembered()}
        (folder / VALUES).write_text(json.dumps(content), encoding="utf-8")
        os.mkfifo(folder / PIPE)
        lines = _Lines(stack, folder / PIPE)
        process = stack.enter_context(_started(ranks, folder, directory, show))
        outcome = _Following(process, lines, callbacks).until_end()
    if outcome is not None:
        raise outcome


def _check(config: Config, ranks: int) -> None:
    """Raise UsageError for what ranks of another process cannot do."""
    if config.env.startswith("__main__:"):
        raise UsageError(
            "env",
            expected="with several ranks, a class in a module that they can import",
            got=f"'{config.env}'",
            remedy="move it into a file of its own",
        )
    if not config.parallel:
        raise UsageError("parallel", expected=f"true with {ranks} ranks", got="false", remedy="leave it out")
    launch.check_rank_count(ranks, config)


@contextmanager
def _started(ranks: int, folder: Path, directory: str, show: bool) -> Iterator[subprocess.Popen[str]]:
    """The ranks' mpirun, whose output is passed on; ended, if it still runs, when this is left."""
    path = os.pathsep.join(entry or directory for entry in sys.path)  # a user's environment is found as it is here
    process = subprocess.Popen(
        [*launch.mpirun_command(), "-n", str(ranks), sys.executable, "-P", "-m", "mmaml.api.ranks", str(folder)],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if show else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,  # signals reach it once, from here
    )
    streams = [(process.stdout, sys.stdout), (process.stderr, sys.stderr)]
    relays = [Thread(target=_relay, args=pair, daemon=True) for pair in streams if pair[0] is not None]
    for relay in relays:
        relay.start()
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for relay in relays:
            relay.join()


def _relay(source: TextIO, target: TextIO) -> None:
    for line in source:
        with suppress(OSError, ValueError):  # nobody reads it any more
            target.write(line)
            target.flush()


class _Lines:
    """The lines that are written into a named pipe, by a process that opens it some time."""

    def __init__(self, stack: ExitStack, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        stack.callback(os.close, self._descriptor)
        self._rest = b""

    def read(self) -> list[str]:
        """The whole lines that have come since; waits for none."""
        received = []
        with suppress(BlockingIOError):
            while block := os.read(self._descriptor, 1 << 16):
                received.append(block)
        *lines, self._rest = (self._rest + b"".join(received)).split(b"\n")
        return [line.decode() for line in lines]


class _Following:
    """What a run on ranks reports, as it comes."""

    def __init__(self, process: subprocess.Popen[str], lines: _Lines, callbacks: Sequence[Callback]) -> None:
        self._process, self._lines, self._callbacks = process, lines, callbacks
        self._waiting: deque[str] = deque()
        self._reason: BaseException | None = None  # why the run was asked, from here, to end
        self._failed = RuntimeError("the ranks failed; what they print says why")  # unless they report something else
        self._outcome: BaseException | None = self._failed

    def until_end(self) -> BaseException | None:
        """Follow the run to its end; what of it is to be raised."""
        ended = False
        while not ended or self._waiting:
            try:
                ended = self._look(ended)
            except BaseException as reason:  # of a callback, or KeyboardInterrupt
                self._reason = self._reason or reason
                self._process.send_signal(signal.SIGINT if isinstance(reason, KeyboardInterrupt) else signal.SIGTERM)
        if isinstance(self._reason, StopTraining):  # in order, with a checkpoint, if the ranks say how they ended
            return self._failed if self._outcome is self._failed else None
        return self._reason or self._outcome

    def _look(self, ended: bool) -> bool:
        """Take what has come, or wait a moment for more; whether the run has ended, before this last look."""
        ended = ended or self._process.poll() is not None
        self._waiting += self._lines.read()
        if not self._waiting and not ended:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(SECONDS_BETWEEN_LOOKS)
        while self._waiting:
            message = json.loads(self._waiting.popleft())
            if "outcome" in message:
                self._outcome = pickle.loads(base64.b64decode(message["outcome"]))
            elif self._reason is None:
                for callback in self._callbacks:
                    callback(message["row"])
        return ended


# On the ranks.


def main(folder: Path) -> int:
    """A rank's part; the exit code."""
    prepare_process()
    end_without_collection()
    outcome: BaseException | None = None
    code = 0
    with ExitStack() as stack:
        pipe = stack.enter_context(open(folder / PIPE, "wb", buffering=0)) if is_first_rank() else None
        try:
            with shutdown.handling_signals():
                content = json.loads((folder / VALUES).read_text(encoding="utf-8"))
                for path, written in content["paths"].items():
                    written_paths.remember(path, written)
                _train(content["values"], pipe)
        except UsageError as error:
            outcome, code = error, 2
        except RunStopped as error:
            outcome, code = error, 1
        except Interrupted as error:
            outcome, code = RunStopped(f"by {signal.Signals(error.exit_code - 128).name}"), error.exit_code
        with suppress(BrokenPipeError):
            _send(pipe, {"outcome": base64.b64encode(pickle.dumps(outcome)).decode()})
    return ended(code)


def _train(values: Mapping[str, Any], pipe: RawIOBase | None) -> None:
    from mmaml.parallel.ranks import connect
    from mmaml.storage.run_lock import RunLock
    from mmaml.storage.starting import ready
    from mmaml.trainer import train

    def report(row: Row) -> None:
        try:
            _send(pipe, {"row": plain_row(row)})
        except BrokenPipeError as error:
            raise RunStopped("the program that started the run has ended") from error

    ranks = connect()
    launch.check_launcher(ranks.size)
    with ranks, RunLock() as lock:
        config = ranks.agree(lambda: ready(configured(values), lock, values))
        train(config, ranks, report)


def _send(pipe: RawIOBase | None, message: Mapping[str, Any]) -> None:
    line = (json.dumps(message) + "\n").encode()
    while line and pipe is not None:
        line = line[pipe.write(line) or 0 :]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
