"""Planning a table of distinct rows against merely reading it with the csv module.

Run: python -m tests.benchmarks.planning [ROWS]
"""

from __future__ import annotations

import csv
import resource
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

from models.settings import Settings
from scheduler.plan import make_plan
from tests.servers.cli import draw_photo


def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.csv"
        draw_photo(Path(folder) / "photo.png")
        with table.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["sku", "image", "prompt", "colour"])
            writer.writerows([f"S{n}", "photo.png", f"number {n} on white", "red"] for n in range(count))
        began = time.perf_counter()
        with table.open(newline="") as file:
            assert sum(1 for _ in csv.reader(file)) == count + 1
        read_s = time.perf_counter() - began
        began = time.perf_counter()
        with make_plan(table, settings=Settings(), today=date(2026, 11, 23)) as plan:
            assert plan.jobs == count
        plan_s = time.perf_counter() - began
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{'':<28}{'per row':>12}{'ratio':>8}")
    print(f"{'csv.reader':<28}{read_s / count * 1e6:>9.1f} us{1:>8.1f}")
    print(f"{'a checked, priced plan':<28}{plan_s / count * 1e6:>9.1f} us{plan_s / read_s:>8.1f}")
    print(f"peak memory {peak_mb:.0f} MB for {count:,} rows")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
