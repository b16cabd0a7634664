"""Text from a network: the options of sampling, sampling itself, and decoding tokens into text as they come."""
