"""Text from a network: sampling options, sampling, and decoding tokens as they come."""
