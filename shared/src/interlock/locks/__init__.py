"""Locks that hold: leases with fencing tokens, and the checkers that refuse a stale token.

A token rises with every new holder of a lock, for ever. Whoever stores something under a lock shows
its token, and whoever keeps the store checks it: `fence` does so for files.
"""
