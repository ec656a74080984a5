from __future__ import annotations

from collections.abc import Iterator

import psutil
import pytest
from slot_support import wait_until


def descendants() -> set[int]:
    return {p.pid for p in psutil.Process().children(recursive=True)}


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """No child process more than before the test."""
    before = descendants()
    yield
    assert wait_until(lambda: descendants() <= before)
