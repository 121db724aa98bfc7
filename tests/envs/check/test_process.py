"""What an examined environment does to the process is found, and put back."""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmaml.envs.check.comparison import same
from mmaml.envs.check.examination import examine
from mmaml.envs.registry import check_family
from tests.helpers.examining import PLAYS, lines
from tests.helpers.faulty_envs import place


def test_the_process_is_left_as_it_was() -> None:
    def state() -> list[Any]:
        handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
        flags = [os.getcwd(), np.geterr(), torch.get_default_dtype(), torch.get_num_threads(), handlers]
        return [*flags, np.random.get_state(legacy=False), random.getstate(), torch.get_rng_state()]

    before = state()
    for probe in ("ChangesDirectory", "StrictNumpy", "DoubleTorch", "ManyThreads", "NoGradients", "TakesSignal"):
        examine(place(probe), steps=2, tasks=1)
    for probe in ("GlobalNumpy", "GlobalPython", "GlobalTorch"):
        examine(place(probe), steps=2, tasks=1)
        check_family(place(probe), {}, trains=True)
    check_family(place("ChangesDirectory"), {}, trains=True)
    assert torch.is_grad_enabled()
    assert same(before, state())


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("1 / 0", "error env: 'module_of_user:Env' cannot be loaded (ZeroDivisionError: division by zero)"),
        ("import sys; sys.exit(3)", "error module module_of_user: calls sys.exit(3)"),
        ("print('hello')", "warning module module_of_user: expected nothing on the terminal, got 'hello'"),
        ("import os; os.chdir('/')", "warning module module_of_user: changes the working directory"),
        ("import numpy; numpy.seterr(all='raise')", "warning module module_of_user: changes NumPy's treatment"),
        ("import numpy; numpy.random.seed(1)", "warning module module_of_user: draws from or seeds the global"),
    ],
)
def test_what_a_module_does_when_imported_is_found(
    body: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "module_of_user.py").write_text(f"from tests.helpers.faulty_envs import Sound as Env\n{body}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "module_of_user", raising=False)
    (line,) = lines(examine("module_of_user:Env", **PLAYS))
    assert line.startswith(expected)
    sys.modules.pop("module_of_user", None)
