"""Hosts that have SSH only: the router moves data to and from them, and keeps their stores."""
