"""Events as a real run writes them, and drawn ones for properties."""

from __future__ import annotations

import hashlib
from pathlib import Path

from hypothesis import strategies as st

from evonas.run.log import EventLog
from evonas.run.schema import COLUMNS, KINDS, Event, pack

METADATA = {"proxies": ["resnet", "mobilenet", "efficientnet"], "space": "norm_act", "seed": 7}
NAMES = [column.name for column in COLUMNS]


def make_event(i: int) -> Event:
    """A realistic row that is a function of its number: 10 nodes of 3 bytes, digest, scores, detail."""
    digest = hashlib.blake2b(b"%d" % i, digest_size=46).digest()
    known = i % 3 != 1
    return Event(
        "finished" if i % 2 else "proposed",
        arm="search" if i % 5 else "control",
        candidate=i // 2,
        attempt=1,
        parent=i // 2 - 1 if i > 1 else None,
        origin="mutation" if i > 1 else "random",
        genotype=digest[16:],
        digest=digest[:16],
        formula="x * sigmoid(v1 * x) / std[w,h,c/g](x)" if known else None,
        outcome="scored" if i % 2 else "dispatched",
        stage="train" if i % 2 else None,
        reason=None if known else "quality: 0.11 after 100 steps, 0.20 needed",
        scores=(0.5 + i / 1e6, None, float("nan")) if i % 2 else None,
        seconds=0.25 if i % 2 else None,
        detail=pack({"stages": [{"stage": "quality", "passed": known, "seconds": 0.01 * i}]}),
    )


def write_log(folder: Path, events: int, *, close: bool = True, **options: int) -> Path:
    """A log of ``events`` rows in batches of 100 (the last one shorter); returns its first segment."""
    log = EventLog.create(folder, "run-a", METADATA, **options)
    first = log.segment
    for i in range(events):
        log.append(make_event(i))
    if close:
        log.close()
    else:
        log.flush()
    return first


def _ints(bits: int) -> st.SearchStrategy[int | None]:
    return st.none() | st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


_TEXT = st.none() | st.text(max_size=40)

EVENTS = st.builds(
    Event,
    kind=st.sampled_from(sorted(KINDS)),
    arm=_TEXT,
    candidate=_ints(32),
    attempt=_ints(16),
    parent=_ints(32),
    origin=_TEXT,
    genotype=st.none() | st.binary(max_size=60),
    digest=st.none() | st.binary(min_size=16, max_size=16),
    formula=_TEXT,
    outcome=_TEXT,
    stage=_TEXT,
    reason=_TEXT,
    scores=st.none() | st.lists(st.none() | st.floats(width=64), max_size=4).map(tuple),
    seconds=st.none() | st.floats(0, 1e9),
    detail=st.none() | st.dictionaries(st.text(max_size=5), st.floats() | _TEXT, max_size=3).map(pack),
)
