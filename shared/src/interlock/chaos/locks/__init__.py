"""Breaks locks on purpose, and proves from recorded histories that they held.

Clients take turns at a few locks and change files and keys under them while brokers, lock services
and the clients themselves are killed, frozen and cut off and wall clocks jump. What the clients
saw, what the bucket stored and what the files took are written down, and checked at the end.
"""
