"""Examples of one's own parts for salf: each is run by a test."""
