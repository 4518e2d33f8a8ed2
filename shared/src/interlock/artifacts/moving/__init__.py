"""The parts of a mover: what it is told, by which right it writes, and each thing it does."""
