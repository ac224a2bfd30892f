"""``python -m tts_gateway``: serve the gateway with uvicorn."""

from __future__ import annotations

import sys

import uvicorn

from tts_gateway.app import create_app
from tts_gateway.settings import read_settings
from tts_tasks.errors import ConfigurationError
from tts_tasks.settings import get_settings


def main() -> int:
    """Serve until SIGTERM or Ctrl-C; returns the exit code, 2 for a wrong setting."""
    try:
        get_settings()  # what it asks the cluster with
        settings = read_settings()
    except ConfigurationError as error:
        sys.stderr.write(f"tts_gateway: {error}\n")
        return 2
    uvicorn.run(create_app(settings), host=settings.host, port=settings.port, server_header=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
