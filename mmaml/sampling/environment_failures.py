"""Failures of a user's environments, and which tasks of a block they are due to."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from mmaml import errors
from mmaml.envs.answers import Refused
from mmaml.envs.base import TaskError, TaskVectorEnv
from mmaml.envs.process_state import ARITHMETIC, Entered, Setting
from mmaml.errors import Failure, NotFinite, text_of
from mmaml.sampling.finite import Finding

MAX_ERROR_LENGTH = 300  # characters of an environment's error in a line


class EnvironmentFailed(RuntimeError):
    """An environment raised `error`, or returned what it may not. task: index in the block of its task, if known.

    given: what the environment was given by the policy that is not finite, if anything; then it is not at fault.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__("an environment failed")
        self.error = error
        self.task: int | None = error.task if isinstance(error, TaskError) else None
        self.given: Finding | None = None


class FromEnvironment:
    """A context in which environments are called: what they raise becomes EnvironmentFailed.

    sys.exit is a failure too: an environment cannot know that the run is over. Signals pass, and so does MemoryError,
    which says nothing about a task. Settings of the process that environments change are put back.

    env: the one that is called; None if no settings have to be examined. settings: those that are examined.
    """

    def __init__(self, env: TaskVectorEnv | None = None, settings: Mapping[str, Setting] = ARITHMETIC) -> None:
        self._code = None if env is None else env.code_settings
        self._settings = settings
        self._entered: Entered | None = None

    def __enter__(self) -> None:
        if self._code is not None:
            self._entered = self._code.enter(self._settings)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._code is not None and self._entered is not None:
            self._code.leave(self._entered)
        if isinstance(error, SystemExit):
            exits = RuntimeError(f"it calls sys.exit({error.code!r})")
            exits.__cause__ = error
            raise EnvironmentFailed(exits) from error
        if not isinstance(error, Exception):
            return
        if not any(isinstance(one, MemoryError) for one in (error, error.__cause__)):
            raise EnvironmentFailed(error) from error


def failing_tasks(sample: Callable[[list[Any]], Any], items: Sequence[Any], error: EnvironmentFailed) -> list[Failure]:
    """Which of the items of a block that failed fail by themselves, in their order.

    sample: samples a block of some of the items. error: what it raised for all. A task that its environment names, or
    that was alone, has failed if it fails once more by itself: so a transient error costs no task, however they are
    divided into blocks. The rest is tried again; where no task is named, halves of the block are. Raises NotFinite, the
    first by its `order`, if other tasks met numbers that are not finite.
    """
    found: list[Failure] = []
    not_finite: list[NotFinite] = []

    def attempt(block: Sequence[tuple[int, Any]]) -> EnvironmentFailed | None:
        try:
            sample([item for _, item in block])
        except EnvironmentFailed as failed:
            return failed
        except NotFinite as finding:
            not_finite.append(finding)
        return None

    first: EnvironmentFailed | None = error
    blocks = [list(enumerate(items))]
    while blocks:
        block = blocks.pop()
        failed, first = first or attempt(block), None
        if failed is None:
            continue
        named = failed.task if failed.task in range(len(block)) else None
        if named is None and len(block) > 1:
            blocks += [block[: len(block) // 2], block[len(block) // 2 :]]
            continue
        suspect = block.pop(named or 0)
        if again := attempt([suspect]):
            found.append(Failure(suspect[0], described(again.error), traced(again.error)))
        if block:
            blocks.append(block)
    if not_finite:
        raise min(not_finite, key=lambda finding: finding.order)
    return sorted(found)


class Tracebacks:
    """Tracebacks of failed tasks: of equal ones only the first is shown."""

    def __init__(self) -> None:
        self._shown: set[str] = set()

    def new(self, failure: Failure) -> str:
        """A line break and the traceback of a failure; "" if an equal one was shown."""
        if failure.trace in self._shown:
            return ""
        self._shown.add(failure.trace)
        return f"\n{failure.trace.rstrip()}"


def described(error: BaseException) -> str:
    """An error of a user's environment as a short line."""
    text = text_of(error) if isinstance(error, TaskError | Refused) else errors.described(error)
    return text if len(text) <= MAX_ERROR_LENGTH else text[: MAX_ERROR_LENGTH - 3] + "..."


def traced(error: BaseException) -> str:
    """Its traceback."""
    return "".join(traceback.format_exception(error)).rstrip()
