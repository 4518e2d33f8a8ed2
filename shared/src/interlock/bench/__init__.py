"""Benchmarks of the bus beside nats-py and FastStream, on one broker and in one run.

`interlock bench` runs them. What is measured and how is written in ``docs/benchmarks.md``.
"""
