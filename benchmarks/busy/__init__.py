"""How much of the time an engine speaks, while there is work: ours beside a plain Celery task."""
