"""How a run stops, however it does, and how it goes on exactly where it was."""
