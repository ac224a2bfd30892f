"""How long a failover takes, measured side by side: ``python -m benchmarks.failover``."""
