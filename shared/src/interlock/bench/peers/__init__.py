"""The clients that are compared: each module knows one, and does the same work with it.

A module offers ``connect``, a context manager around one connection, and ``WAYS``: what can be
timed, by name. Each way is given the connection and a `interlock.bench.task.Task`, does what must
not be timed, then the timed part, and returns its `interlock.bench.task.Timing`.
"""
