"""How each contender's locks are used, one module a contender, each with a `connect`."""
