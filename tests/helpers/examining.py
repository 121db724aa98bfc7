"""Examining environments in tests."""

from __future__ import annotations

from mmaml.envs.check.examination import Report

PLAYS = {"steps": 16, "tasks": 3}  # how long an examination takes


def lines(report: Report) -> list[str]:
    """What was found, each with its level."""
    return [f"{finding.level} {finding}" for finding in report.findings]
