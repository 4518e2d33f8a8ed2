"""sync-router: data where it is needed, and proof that it arrived."""
