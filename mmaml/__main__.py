"""`python -m mmaml`: the command `mmaml`."""

from __future__ import annotations

import sys

from mmaml.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
