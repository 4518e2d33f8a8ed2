"""dead-letter-queue: keeps, lists, shows, replays and discards dead letters."""
