"""What the README and docs promise, tested through the commands that a user types."""
