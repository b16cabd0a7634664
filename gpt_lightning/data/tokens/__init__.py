"""Text becomes files of tokens, which are read as one sequence; token files of other projects are read, too."""
