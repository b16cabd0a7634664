"""What the README and docs promise, seen from where a user stands: the commands, as they are typed."""
