"""Check a checkout and build what is built once: ``python -m tts_workers.engines.glmtts``.

For images and new machines: it loads no weights and needs no GPU. Exit code 0: ready; 1: the last
line says what is missing.
"""

from __future__ import annotations

import sys

from tts_tasks.errors import TTSError
from tts_workers.engines.glmtts.checkout import Checkout, go_offline
from tts_workers.engines.glmtts.model import keep_grammars
from tts_workers.engines.glmtts.settings import read_settings


def main() -> int:
    """Check, build, and say so."""
    try:
        settings = read_settings()
        checkout = Checkout(settings)
        checkout.open()
        go_offline()
        with checkout.inside():
            front_end = keep_grammars(checkout, settings)
            front_end.TextFrontEnd(settings.phoneme)
    except TTSError as error:
        print(error, file=sys.stderr)  # noqa: T201 - a command
        return 1
    print(f"ready: {checkout.home} with the weights of {checkout.ckpt}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
