"""Twenty people ask at the same moment over raw server-sent events: every answer comes whole."""

import asyncio
from pathlib import Path

from tests.bench.crowd import ask_all
from tests.running import running_stage
from tests.web.browser.looking import rows


def test_twenty_streams_are_all_whole(tmp_path: Path) -> None:
    with running_stage(tmp_path / "data", auth="open", pace=0.05) as app:
        found = asyncio.run(ask_all(app.address, 20))
        ((whole,),) = rows(app, "SELECT COUNT(*) FROM interaction WHERE answer LIKE '%word79%'")
    assert whole == 20
    assert all(len(pushes) >= 3 for pushes, _ in found)
