"""Writing: the report, and tables for terminals and TensorBoard."""
