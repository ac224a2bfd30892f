"""The process behind `ttsctl up --detach`; see `ttsctl.supervisor.detached`."""

from __future__ import annotations

import sys

from tts_tasks.settings import get_settings
from ttsctl.supervisor.detached import serve

if __name__ == "__main__":
    sys.exit(serve(get_settings()))
