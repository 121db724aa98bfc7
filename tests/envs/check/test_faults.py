"""Each fault of an environment is found by its line, and nothing else; what is right passes."""

from __future__ import annotations

import pytest

from mmaml.envs.check.examination import examine
from tests.helpers.examining import PLAYS, lines
from tests.helpers.faulty_envs import PROBES, place


@pytest.mark.parametrize("probe", PROBES)
def test_each_fault_is_found_and_nothing_else(probe: str) -> None:
    expected = PROBES[probe].found
    report = examine(place(probe), **PLAYS)
    found = lines(report)
    assert len(found) == len(expected), found
    for line, (level, *rest) in zip(found, expected, strict=True):
        start = f"{'error' if level == 'e' else 'warning'} {probe}{''.join(rest)}"
        assert line.startswith(start), line
        assert "\n" not in line
    assert report.passed == (not any(line.startswith("e") for line in expected))


def test_every_probe_states_what_is_found_of_it() -> None:
    assert [name for name, probe in PROBES.items() if "found" not in vars(probe)] == []
