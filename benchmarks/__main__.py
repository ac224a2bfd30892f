"""``python -m benchmarks [NAME [OPTIONS]]``: list the benchmarks, or do one."""

from __future__ import annotations

import sys
from importlib import import_module

#: Name → the module that measures it, and what it measures.
NAMES = {
    "dispatch": (
        "benchmarks.dispatch.measure",
        "jobs/s and latency of jobs without work, beside Celery, RQ, dramatiq, arq, taskiq",
    ),
    "busy": (
        "benchmarks.busy.measure",
        "share of time in which the engine speaks, when encoding and storing cost something",
    ),
    "priority": (
        "benchmarks.priority",
        "how long online jobs wait beside a batch that fills all workers",
    ),
    "memory": (
        "benchmarks.memory",
        "memory of Redis, client and worker, and time to accept, by the size of a batch",
    ),
    "scale": ("benchmarks.scale", "throughput on 1 to 16 workers, and on several lanes"),
    "failover": (
        "benchmarks.failover.__main__",
        "how long a failover takes, beside bare Celery and a health-check script",
    ),
}


def main(arguments: list[str]) -> int:
    """Do one benchmark; without a name, list them."""
    if not arguments:
        for name, (_, what) in NAMES.items():
            print(f"make bench NAME={name:10} {what}")
        return 0
    name, *rest = arguments
    if name not in NAMES:
        print(f"no benchmark {name!r}; there are: {', '.join(NAMES)}", file=sys.stderr)
        return 2
    module = import_module(NAMES[name][0])
    if name == "failover":
        return int(module.main(rest))
    from benchmarks.benchmark import run

    return run(module.BENCHMARK, rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
