"""What one comparison costs: an experiment of many requests inside logs of two sizes.

    python -m tests.bench.comparing [--requests 100000] [--rows 1000000] [--times 10] [--rounds 7]

Looks at the experiment inside a log of `rows` interactions and inside one `times` as long,
alternated; whole (as after a restart, and for `compare --check`) and with what is new since the
last look only (as the guard does every two seconds). Each answer was noted three times: finished,
scored, rated now and then.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from statistics import median

from peewee import Database

from cl.ab_test import ABTestManager
from cl.db.database import open_database
from cl.db.observations import Ledger
from cl.house import utc_now
from cl.records import BASE
from cl.settings import ExperimentLimits

_NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) "


def fill(database: Database, rows: int, requests: int) -> ABTestManager:
    """A log of so many interactions, the last ones of them in a running experiment."""
    manager = ABTestManager(database, lambda: ExperimentLimits(decision_mode="dry_run"), utc_now)
    for name in ("v0001", "v0002"):
        manager.register(name, parent=BASE, run_id=None, sha256="x")
        manager.deploy_challenger(name)
    now = int(utc_now().timestamp() * 1000)
    earlier = int((utc_now() - timedelta(hours=60)).timestamp() * 1000)
    chats = rows // 5 + 1
    answer = "'A budget is a plan for money. ' || hex(randomblob(60))"
    with database.atomic():
        database.execute_sql(f"UPDATE experiment SET started_at = {earlier}")
        database.execute_sql(
            _NUMBERS.format(chats)
            + "INSERT INTO conversation (id, user, title, learn, created_at, updated_at) "
            f"SELECT i, 'u' || (i % 50), 'Chat', 1, {now}, {now} FROM n"
        )
        database.execute_sql(
            _NUMBERS.format(rows)
            + "INSERT INTO interaction (id, request_id, conversation_id, user, prompt, answer, "
            "status, version, arm, experiment_id, quality, scorer, created_at, finished_at, latency_s, "
            f"first_token_s) SELECT i, 'r' || i, i / 5 + 1, 'u' || (i % 50), 'What is a budget?', {answer}, "
            f"'complete', 'v0001', 'champion', CASE WHEN i > {rows - requests} THEN 1 END, 0.7, 's', "
            f"{now} - (i % 1000000), {now}, 1.0, 0.2 FROM n"
        )
        for noted in (
            "NULL, 0",
            "(abs(random()) % 1000) / 1000.0, 0",
            "(i % 997) / 1000.0, i % 3 - 1",
        ):
            is_rated = "WHERE i % 10 = 0" if "- 1" in noted else ""
            database.execute_sql(
                _NUMBERS.format(requests)
                + "INSERT INTO observation (experiment_id, interaction_id, conversation_id, arm, quality, "
                f"thumb, latency_s, is_error) SELECT 1, {rows - requests} + i, i / 5 + 1, "
                f"CASE WHEN (i / 5) % 10 THEN 'champion' ELSE 'challenger' END, {noted}, "
                f"1.0 + (abs(random()) % 1000) / 300.0, i % 99 = 0 FROM n {is_rated}"
            )
    return manager


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        managers = {}
        for rows in (args.rows, args.rows * args.times):
            path = Path(folder) / str(rows)
            path.mkdir()
            managers[rows] = fill(open_database(path), rows, args.requests)
            print(f"a log of {rows:,} rows is ready", flush=True)
        whole: dict[int, list[float]] = {rows: [] for rows in managers}
        new: dict[int, list[float]] = {rows: [] for rows in managers}
        for _ in range(args.rounds):
            for rows, manager in managers.items():
                manager._ledger = Ledger(0)  # as after a restart
                whole[rows].append(timed(manager.compare_models))
                new[rows].append(timed(manager.compare_models))
        small, large = managers
        for title, found in (("whole", whole), ("what is new", new)):
            first, second = median(found[small]), median(found[large])
            print(
                f"{title:<12} {args.requests:,} requests: {first:.0f} ms in {small:,}, "
                f"{second:.0f} ms in {large:,} rows; {second / first:.2f} x"
            )


if __name__ == "__main__":
    main()
