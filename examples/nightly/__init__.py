"""A job for every night."""
