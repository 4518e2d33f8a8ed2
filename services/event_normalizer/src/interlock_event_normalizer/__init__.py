"""event-normalizer: legacy names and payloads in, canonical events out, once each."""
