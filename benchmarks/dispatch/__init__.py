"""What a job costs beside its work: ours and the usual task queues, each with a job of no work."""
