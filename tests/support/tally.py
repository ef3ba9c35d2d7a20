"""Counts what the tests of this process did to stores, and what became of them; ``make soak`` prints it.

Whatever injects a fault says so here. ``judged`` is how a test looks at a store afterwards.
"""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.invariants import State, differences, live_ids, violations, violations_between


@dataclass
class Tally:
    """Crashes and faults by kind; stores that were judged, and what was wrong with them."""

    crash_points: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    stores: int = 0
    images_lost: int = 0
    images_duplicated: int = 0
    wrong_publications: int = 0

    def write(self, path: Path) -> None:
        """As JSON."""
        document = {
            "crash_points": self.crash_points,
            "faults": dict(sorted(self.faults.items())),
            "faults_injected": self.faults.total(),
            "stores_judged": self.stores,
            "images_lost": self.images_lost,
            "images_duplicated": self.images_duplicated,
            "wrong_publications": self.wrong_publications,
        }
        path.write_text(json.dumps(document, indent=2) + "\n")


tally = Tally()


def judged(
    state: State, *, before: State | None = None, wanted: State | None = None, at_once: bool = False
) -> list[str]:
    """What is wrong with a store: in itself, since ``before``, and compared with what it should hold.

    With ``at_once`` two drivers may have done the same task, of which the first receipt counts.
    """
    since = [] if before is None else violations_between(before, state)
    found = violations(state) + [one for one in since if not (at_once and one.startswith("I12 "))]
    found += [] if wanted is None else differences(wanted, state)
    tally.stores += 1
    tally.wrong_publications += bool(found)
    if not found or wanted is not None:
        live = live_ids(state)
        tally.images_duplicated += len(live) - len(set(live))
        tally.images_lost += 0 if wanted is None else len(set(live_ids(wanted)) - set(live))
    return found
