"""Which models of the locks are searched: small ones by the tests, larger ones by `just model`."""

from typing import Final

from tests.model.lock_model import Bounds

__all__ = ["LARGE", "SMALL"]

#: Together less than a minute.
SMALL: Final[dict[str, Bounds]] = {
    "two replicas, renewals and an expiry": Bounds(),
    "clients crash, replicas begin anew": Bounds(renewals=0, crashes=1, ends="crashed", restarts=1),
    "requests arrive again": Bounds(repeats=1, renewals=0),
    "an operator takes locks away": Bounds(ends="any", renewals=0),
    "urgent and not": Bounds(
        priorities=("normal", "high", "normal"), replicas=1, renewals=0, expiries=0, direct=False
    ),
    "two slots": Bounds(slots=2, priorities=("normal",) * 3, replicas=1, renewals=0, expiries=0),
    "a marker wipes one late write": Bounds(late_markers="one"),
    "a marker wipes any late write, and clients give up for good": Bounds(
        late_markers="any", final=True
    ),
    "replicas miss records": Bounds(lossy=True, renewals=0, expiries=0, direct=False),
}

#: Up to millions of states, and half an hour in all.
LARGE: Final[dict[str, Bounds]] = {
    "replicas lag further": Bounds(lag=4, keeps=1),
    "requests arrive again while clients renew": Bounds(repeats=1),
    "an operator takes locks away while clients renew": Bounds(ends="any", keeps=1),
    "three clients, urgent and not, and an expiry": Bounds(
        priorities=("normal", "high", "normal"), renewals=0
    ),
    "three clients for two slots, and an expiry": Bounds(
        slots=2, priorities=("normal",) * 3, renewals=0
    ),
    "two claims a client": Bounds(priorities=("low", "high"), asks=2, renewals=0),
    "everything at once": Bounds(
        keeps=1, crashes=1, ends="crashed", restarts=1, late_markers="one"
    ),
    "two expiries, with late markers": Bounds(late_markers="one", expiries=2, renewals=2, keeps=1),
    "replicas miss records while clients renew": Bounds(lossy=True),
    "three replicas": Bounds(replicas=3),
}
