"""What a terminal starts: the only place that knows arguments, exit statuses and printing. One file per command."""
