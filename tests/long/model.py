"""`python -m tests.long.model [EXAMPLES]`: every backend against its twin in memory, with that many random histories each."""

from __future__ import annotations

import sys
import time
import unittest

from hypothesis import HealthCheck, settings

from tests import test_model


def main(examples: int) -> None:
    many = settings(
        max_examples=examples,
        stateful_step_count=40,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    for name in ("TestMemory", "TestFile", "TestDirectory", "TestKilledFile", "TestKilledDirectory"):
        case = getattr(test_model, name)
        case.settings = many
        began = time.monotonic()
        result = unittest.TextTestRunner(verbosity=0).run(case("runTest"))
        if not result.wasSuccessful():
            sys.exit(1)
        print(f"{name}: {examples} histories in {time.monotonic() - began:.0f} s, all agree", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
