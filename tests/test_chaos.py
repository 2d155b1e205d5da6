"""Chaos, in short: see chaos.py, of which `make chaos` runs more."""

from __future__ import annotations

from typing import Any

import chaos
import pytest


@pytest.mark.parametrize("method", ["fork", "forkserver"])
@pytest.mark.parametrize("tasks", [1, None])
def test_no_slot_is_lost_and_nothing_hangs_whichever_processes_are_killed(
    method: Any, tasks: int | None
) -> None:
    seen = chaos.run(method, seed=1, kills=15, tasks=tasks)
    assert seen.kills >= 15
