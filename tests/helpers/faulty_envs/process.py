"""Environments that raise, or change what belongs to the whole process; one with several faults at once."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import numpy as np
import torch

from tests.helpers.faulty_envs.sound import Sound

# Failures, and effects on the process.


class CannotBuild(Sound):
    found = ("e(): raises FileNotFoundError: no model",)

    def __init__(self) -> None:
        raise FileNotFoundError("no model")


class Raises(Sound):
    found = ("e.step: raises ZeroDivisionError: as asked",)

    def step(self, action: np.ndarray) -> Any:
        if self.age == 5:
            raise ZeroDivisionError("as asked")
        return super().step(action)


class Exits(Sound):
    found = ("e.reset: calls sys.exit('as asked')",)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        sys.exit("as asked")


class Prints(Sound):
    found = ("w.step: expected nothing on the terminal, got 'a step of'",)

    def step(self, action: np.ndarray) -> Any:
        print("a step of\nmany")
        return super().step(action)


class ChangesDirectory(Sound):
    found = ("w.reset: changes the working directory (os.chdir): from ",)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        os.chdir("/")
        return super().reset(seed=seed)


class StrictNumpy(Sound):
    found = ("w.reset: changes NumPy's treatment of floating-point errors (np.seterr)",)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        np.seterr(all="raise")
        return super().reset(seed=seed)


class DoubleTorch(Sound):
    found = ("w(): changes torch's default dtype (torch.set_default_dtype): from torch.float32 to torch.float64",)

    def __init__(self) -> None:
        super().__init__()
        torch.set_default_dtype(torch.float64)


class NoGradients(Sound):
    found = ("w(): changes whether torch records gradients (torch.set_grad_enabled): from True to False",)

    def __init__(self) -> None:
        super().__init__()
        torch.set_grad_enabled(False)


class ManyThreads(Sound):
    found = ("w(): changes torch's number of threads (torch.set_num_threads): from ",)

    def __init__(self) -> None:
        super().__init__()
        torch.set_num_threads(torch.get_num_threads() + 1)


class TakesSignal(Sound):
    found = ("w.set_task: changes what signals do (signal.signal)",)

    def set_task(self, task: Any) -> None:
        signal.signal(signal.SIGUSR2, lambda *_: None)
        super().set_task(task)


class CannotClose(Sound):
    found = ("w.close: raises RuntimeError: as asked",)

    def close(self) -> None:
        raise RuntimeError("as asked")


# Several faults at once.


class Everything(Sound):
    """Old Gym's API, a task that is changed, learn2learn's `sample_tasks`, and a term that is text."""

    found = (
        "e.sample_tasks: expected sample_tasks(n, rng) or",
        "e.reset: expected reset(*, seed=None, options=None), got reset()",
        "e.reset: expected (observation, info), got a float32 array of shape (2,)",
        "e.step: expected five values",
        "w.sample_tasks: gives the same tasks for a different generator",
        "w.set_task: expected the task left as it was given, got {'goal': 0.0} changed to {}",
    )

    def sample_tasks(self, num_tasks: int) -> Any:  # type: ignore[override]
        return [{"goal": float(k)} for k in range(num_tasks)]

    def set_task(self, task: Any) -> None:
        self.goal = task.pop("goal")

    def reset(self) -> Any:  # type: ignore[override]
        self.position, self.age = 0.0, 0
        return self.observe()

    def step(self, action: np.ndarray) -> Any:
        self.age += 1
        return self.observe(), -self.distance, self.age >= self.length, {}
