"""How a run ends, for whatever reason, and resumes exactly where it was."""
