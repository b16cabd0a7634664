"""Results in writing: the HTML report, and tables for terminals and TensorBoard."""
