"""An environment that changes what belongs to the whole process, wherever it is asked to."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.faulty_envs import Sound

COUNT = itertools.count()
EVERYWHERE = "__init__", "sample_tasks", "set_task", "reset", "step", "render", "close"


class Unsettling(Sound):
    """Executes `what` in the method `where`: whenever that is called, or the time number `when` alone."""

    def __init__(self, where: str = "", what: str = "", when: int | None = None, render_mode: str = "") -> None:
        super().__init__()
        self.where, self.what, self.when, self.calls = where, what, when, 0
        self.act("__init__")

    def act(self, method: str) -> None:
        if method == self.where:
            if self.when in (None, self.calls):
                exec(self.what, {})
            self.calls += 1

    def sample_tasks(self, n: int, rng: np.random.Generator) -> Any:
        self.act("sample_tasks")
        return super().sample_tasks(n, rng)

    def set_task(self, task: Any) -> None:
        self.act("set_task")
        super().set_task(task)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.act("reset")
        return super().reset(seed=seed)

    def step(self, action: np.ndarray) -> Any:
        self.act("step")
        return super().step(action)

    def render(self) -> Any:
        self.act("render")
        return np.zeros((4, 4, 3), np.uint8)

    def close(self) -> None:
        self.act("close")


class UnsettlingUser(Unsettling):
    """Fails where `holds` does not hold in one of its methods, after the first call of `where`."""

    def __init__(self, where: str, what: str, holds: str) -> None:
        self.holds, self.changed = holds, False
        super().__init__(where, what)

    def act(self, method: str) -> None:
        if self.changed or method == self.where:
            super().act(method) if not self.changed else None
            self.changed = True
            assert eval(self.holds, {"os": __import__("os"), "np": np, "torch": __import__("torch")}), method


def module_that(what: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an environment in a new module, which executes `what` when it is imported."""
    name = f"unsettling_module_{next(COUNT)}"
    (folder / f"{name}.py").write_text(f"{what}\nfrom {__name__} import Unsettling as Env\n")
    monkeypatch.syspath_prepend(str(folder))
    sys.modules.pop(name, None)
    return f"{name}:Env"
