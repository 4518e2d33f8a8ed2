"""The outbox: a file on this host that takes events while the broker is out of reach.

A publish returns once its event is on the local disk; from there it is forwarded in order, under
the same id, by whichever process holds the file's lock. `rules` decides, `store` is the file,
`box` takes publishes in, `forwarder` sends them on, `lookup` asks what has arrived before.
"""

from interlock.outbox.box import Outbox
from interlock.outbox.rules import Limits
from interlock.outbox.store import Refusal, Status, Stored

__all__ = ["Limits", "Outbox", "Refusal", "Status", "Stored"]
