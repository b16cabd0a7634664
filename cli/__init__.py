"""What a terminal starts, one file per command: the only place that knows arguments, exit statuses and printing."""
