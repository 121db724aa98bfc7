"""What the tests that feed anything to the program share: examples, their number, and a limit against hangs."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# The same examples each time. A fixture that is shared by them holds nothing that they change.
FUZZ = settings(
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
)
SECONDS = 60  # far more than anything here takes

WEIRD = ["", " ", "\0", "a\nb", "\x1b[2J", "\ud800", "\u2028", "é" * 5000, "{", '"', "..", "-", "%s%n", "null", "1e999"]
TEXTS = st.one_of(st.text(st.characters(codec=None), max_size=12), st.sampled_from(WEIRD))
LIMITS = [0, 1, -1, 1e30, -1e30, 2**31, 2**53, 2**62, 2**63, 2**70, 10**400, 1e38, 1e39, 1e300, 5e-324, -0.0, 1.5]
NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from(LIMITS))
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
)


@contextmanager
def no_hang(seconds: int = SECONDS) -> Iterator[None]:
    """Fails where what it holds takes longer."""

    def late(*_: Any) -> None:
        raise AssertionError(f"nothing came of it within {seconds} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def refusal(error: type[Exception], action: Callable[[], Any]) -> str:
    """The one line with which `error` refuses an action; "" if the action is done. Anything else raised is a fault."""
    with no_hang():
        try:
            action()
        except error as caught:
            text = str(caught)
            assert text.splitlines() == [text] and len(text) < 2000, text
            text.encode()  # as a log file takes it
            return text
    return ""


def contents(folder: Path) -> dict[str, bytes | str]:
    """Every file under a folder with its bytes, and whatever else there is with its kind."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else f"{path.lstat().st_mode:o}"
        for path in sorted(folder.rglob("*"))
    }
