"""`mmaml check-env`: what it prints, its arguments and exit codes."""

from __future__ import annotations

import json

import pytest

from mmaml.cli import check_env, main
from tests.helpers.faulty_envs import place


def run(*arguments: str) -> int:
    return main.main(["check-env", *arguments])


def test_the_command_prints_facts_and_says_that_it_passed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("MetaPointEnvMomentumModes", "--steps", "5", "--tasks", "2") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "MetaPointEnvMomentumModes" and out[-1] == "passed"
    assert "  splits        train, test" in out


def test_the_command_lists_everything_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(place("Everything"), "--steps", "20") == 2
    out = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("error: Everything.") for line in out) == 4
    assert out[-1] == "failed: 4 errors, 2 warnings"


def test_warnings_do_not_fail(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(place("Doubles")) == 0
    assert capsys.readouterr().out.endswith("passed: 2 warnings\n")


def test_tracebacks_follow_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(place("Raises")) == 2
    assert "Traceback" not in capsys.readouterr().out
    assert run(place("Raises"), "--verbose") == 2
    out = capsys.readouterr().out
    assert "Traceback" in out and 'raise ZeroDivisionError("as asked")' in out and "check/process.py" not in out


def test_arguments_of_the_class_are_json(capsys: pytest.CaptureFixture[str]) -> None:
    kwargs = json.dumps({"centers": [[1, 1], [2, 2], [3, 3]]})
    assert run("MetaPointEnvMomentumModes", "--env_kwargs", kwargs, "--steps", "2") == 0
    assert "  modes         3" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "command line: the following arguments are required: ENV"),
        (["x", "--steps", "0"], "--steps: expected a whole number ≥ 1, got 0"),
        (["x", "--env_kwargs", "{"], "--env_kwargs: is not valid JSON"),
        (["x", "--env_kwargs", "[1]"], "--env_kwargs: expected a JSON object"),
    ],
)
def test_wrong_command_lines_are_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check_env.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"error: {message}") and err.count("\n") == 1
