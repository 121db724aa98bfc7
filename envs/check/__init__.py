"""Examination of a user's environment before anything runs.

examination: everything that is wrong with one, as the command `mmaml check-env` prints it. start: the cheap part, which
training does at its start. The other modules hold the checks, and what they need to call a user's code safely.
"""
