"""Stories one after the other, until time is over or one goes wrong: `make torture SEED=7 MINUTES=30`."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter

from tests.support.server import own_cluster
from tests.torture import plan, story
from tests.torture.oracle import Verdict


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--seed", type=int, help="of the first story; each next one has the next. Even: harmless")
    parser.add_argument("--minutes", type=float, default=10, help="no story begins after these; 0: one story")
    chosen = parser.parse_args()
    seed = chosen.seed if chosen.seed is not None else random.randrange(2**31)
    deadline = time.monotonic() + chosen.minutes * 60
    verdict, counts = Verdict(), Counter[str]()
    with own_cluster() as cluster:
        while True:
            the_plan = plan.make(seed)
            outcome = asyncio.run(story.tell(the_plan, cluster))
            verdict.add(outcome.verdict)
            counts += outcome.counts
            counts["stories"] += 1
            if not outcome.verdict.is_good:
                print(outcome.complaint(the_plan))
                return 1
            print(outcome, flush=True)
            if time.monotonic() >= deadline:
                break
            seed += 1
    print(f"{counts['stories']} stories: {dict(counts)}; {verdict.expected} rows of the last runs were judged")
    return 0


if __name__ == "__main__":
    sys.exit(main())
