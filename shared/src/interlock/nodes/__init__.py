"""How nodes are described: the file that people write, and the records that every service reads."""
