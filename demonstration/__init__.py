"""What a newcomer runs first: `make demo`."""
