"""Faults of what `reset` and `step` return."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.helpers.faulty_envs.sound import BOX, Sound, Steps

# Gymnasium's API.


class BareObservation(Sound):
    found = ("e.reset: expected (observation, info), got a float32 array of shape (2,); return what Gymn",)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed=seed)[0]


class FourValues(Sound):
    found = ("e.step: expected five values (observation, reward, terminated, truncated, info), got 4 values, as in",)

    def step(self, action: np.ndarray) -> Any:
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, info


# What is returned.


class WrongShape(Sound):
    found = (
        "e.reset: observation: expected shape (2,), as its space says, got shape (3,)",
        "e.step: observation: expected shape (2,), as its space says, got shape (3,)",
    )

    def observe(self) -> Any:
        return np.zeros(3, np.float32)


class Doubles(Sound):
    found = (
        "w.reset: observation: expected a float32 array, as its space says, got float64",
        "w.step: observation: expected a float32 array, as its space says, got float64",
    )

    def observe(self) -> Any:
        return super().observe().astype(np.float64)


class Lists(Sound):
    found = (
        "w.reset: observation: expected a float32 array, as its space says, got a list",
        "w.step: observation: expected a float32 array, as its space says, got a list",
    )

    def observe(self) -> Any:
        return super().observe().tolist()


class Text(Sound):
    found = (
        "e.reset: observation: expected an array of numbers, got 'here'",
        "e.step: observation: expected an array of numbers, got 'here'",
    )

    def observe(self) -> Any:
        return "here"


class Outside(Sound):
    found = (
        "w.reset: observation: expected entry 0 from -100 to 100, as its space says, got ",
        "w.step: observation: expected entry 0 from -100 to 100, as its space says, got ",
    )

    def observe(self) -> Any:
        return super().observe() + np.float32(200)


class Clock(Sound):
    """Seconds since 1970, in steps of 0.02 s."""

    found: tuple[str, ...] = (
        "w: observation: entry 1 changes by 0.24 about 1.7e+09, which float32 cannot hold; set "
        '"normalize_observations": true, or subtract a constant',
    )

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = BOX(-np.inf, np.inf, (2,), np.float64)

    def observe(self) -> Any:
        return np.array([self.position, 1.7e9 + 0.02 * self.age])


class CoarseClock(Clock):
    """The same in float32, whose numbers are 128 apart there."""

    found = (
        "w: observation: entry 1 is 1.7e+09 in float32, whose numbers are 128 apart there; return float64 and set "
        '"normalize_observations": true, or subtract a constant',
    )

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = BOX(-np.inf, np.inf, (2,), np.float32)

    def observe(self) -> Any:
        return super().observe().astype(np.float32)


class Pixels(Sound):
    """Pixels of 8 bits."""

    found = (
        "w: observation: is of whole numbers from 0 to 255, which saturate a network; set "
        '"normalize_observations": true, or rescale them within the class',
    )

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = BOX(0, 255, (2,), np.uint8)

    def observe(self) -> Any:
        return np.array([100 + 50 * np.tanh(self.position), self.age % 256], np.uint8)


class Millimetres(Sound):
    found = ("w: observation: entry 0 is as large as 200",)

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = BOX(-np.inf, np.inf, (2,), np.float32)

    def observe(self) -> Any:
        return np.array([2000 + self.position, self.age], np.float32)


class NotANumber(Sound):
    found = ("e.step: observation: expected finite numbers, got nan",)

    def observe(self) -> Any:
        return np.array([np.nan if self.age > 3 else 0, self.age], np.float32)


class InfiniteReward(Steps):
    found = ("e.step: reward: expected finite numbers, got inf",)

    def changed(self, observation: Any, reward: Any, *rest: Any) -> Any:
        return observation, np.inf if self.age == 5 else reward, rest[0], rest[1], {}


class ListedReward(Steps):
    found = ()

    def changed(self, observation: Any, reward: Any, *rest: Any) -> Any:
        return observation, np.array([reward]), *rest


class NoReward(Steps):
    found = ("e.step: reward: expected a number, got None",)

    def changed(self, observation: Any, reward: Any, *rest: Any) -> Any:
        return observation, None, *rest


class ListedEnd(Steps):
    found = ("e.step: terminated: expected true or false, got [False]",)

    def changed(self, observation: Any, reward: Any, terminated: Any, *rest: Any) -> Any:
        return observation, reward, [terminated], *rest


class EndOfAll(Steps):
    found = ("e.step: terminated: expected true or false, got {'__all__': False}",)

    def changed(self, observation: Any, reward: Any, terminated: Any, truncated: Any, info: Any) -> Any:
        return observation, reward, {"__all__": terminated}, truncated, info


class NoCut(Steps):
    found = ("e.step: truncated: expected true or false, got None",)

    def changed(self, observation: Any, reward: Any, terminated: Any, truncated: Any, info: Any) -> Any:
        return observation, reward, terminated, None, info


class NoInfo(Steps):
    found = ("e.step: info: expected a dict, got None",)

    def changed(self, *values: Any) -> Any:
        return *values[:4], None


class TermOfText(Steps):
    found = ("w.step: info['reward_type']: expected a number, a term of the reward, got 'dense'",)

    def changed(self, *values: Any) -> Any:
        return *values[:4], values[4] | {"reward_type": "dense"}


class TermOfTwo(Steps):
    found = ("w.step: info['reward_pair']: expected a number, a term of the reward, got a float64 array of shape",)

    def changed(self, *values: Any) -> Any:
        return *values[:4], values[4] | {"reward_pair": np.zeros(2)}


class MissingTerm(Steps):
    found = ("w.step: info['reward_…']: expected terms that sum to the reward, got 1 for ",)

    def changed(self, *values: Any) -> Any:
        return *values[:4], {"reward_alive": 1.0}


class RareTerm(Steps):
    found = ("w.step: info['reward_all']: expected at every step, got at 24 of 48 steps",)

    def changed(self, *values: Any) -> Any:
        return *values[:4], {"reward_all": values[1]} if self.age % 2 else {}


class SuccessOfText(Steps):
    found = ("e.step: info['success']: expected true or false, got 'no'",)

    def changed(self, *values: Any) -> Any:
        return *values[:4], {"success": "no"}


class LateSuccess(Steps):
    found = ("e.step: info['success']: expected at every step or at none, got at 3 of 48 steps",)

    def changed(self, *values: Any) -> Any:
        return *values[:4], {"success": True} if values[2] else {}


class OtherSuccess(Steps):
    found = ()

    def changed(self, *values: Any) -> Any:
        return *values[:4], {"is_success": False}


class BlowUp(Steps):
    found = ("w.step: info['blow_up']: is read from a TaskVectorEnv alone",)

    def changed(self, *values: Any) -> Any:
        return *values[:4], {"blow_up": False}
