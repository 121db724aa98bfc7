"""Whether Meta-World is installed, in versions that work together."""

from __future__ import annotations

import pytest

from mmaml.envs import metaworld
from mmaml.errors import ConfigError


def is_installed() -> bool:
    try:
        metaworld.package()
    except ConfigError:
        return False
    return True


needs_metaworld = pytest.mark.skipif(not is_installed(), reason="needs Meta-World")
