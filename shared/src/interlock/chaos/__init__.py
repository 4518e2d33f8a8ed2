"""Breaks a real broker, its network and its clients on purpose, and keeps the books.

`interlock chaos` runs publishers and consumers as processes of their own against one server or
three, carries out a schedule of faults drawn from a seed, heals everything, and then compares what
was acknowledged with what is stored and with what was done.
"""
