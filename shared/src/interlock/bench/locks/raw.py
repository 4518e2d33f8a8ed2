"""The raw write that a lock is compared with: the same for every contender."""

from typing import Final

from interlock_schemas.topology import Bucket

__all__ = ["BUCKET", "VALUE"]

#: What is written, about as large as the record of a lock.
VALUE: Final = bytes(256)

#: Where ours goes: a bucket made like that of the locks, on the same broker.
BUCKET: Final = Bucket(name="bench_raw", summary="Raw writes of a benchmark.")
