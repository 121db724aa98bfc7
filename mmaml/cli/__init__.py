"""The command line: arguments, errors in one line, starting a run."""
