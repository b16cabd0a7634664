"""Tokens: text cut, tokenised and kept in files, ours and others', and read as one sequence."""
