"""node-agent: runs on each node, says that it lives and how it is, and leaves in good order."""
