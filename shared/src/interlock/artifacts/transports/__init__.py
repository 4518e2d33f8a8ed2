"""Ways for bytes of an artifact to come here from a node that has it."""
