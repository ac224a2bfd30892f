"""Makes a sherpa-onnx model, also on trial: run as a file, the arguments as JSON on stdin.

The library ends the whole process (``_Exit``) when it does not like a file: a model without the
metadata that it looks for, tokens that it cannot read. So a process of its own tries it first.
Nothing but sherpa-onnx is imported here.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def make_model(family: str, model: dict[str, Any], provider: str, threads: int) -> Any:
    """Return ``sherpa_onnx.OfflineTts``; ``model`` is what the family's configuration takes."""
    import sherpa_onnx

    kinds = {
        "kitten": sherpa_onnx.OfflineTtsKittenModelConfig,
        "kokoro": sherpa_onnx.OfflineTtsKokoroModelConfig,
        "matcha": sherpa_onnx.OfflineTtsMatchaModelConfig,
        "vits": sherpa_onnx.OfflineTtsVitsModelConfig,
    }
    models = {family: kinds[family](**model)}
    config = sherpa_onnx.OfflineTtsConfig(
        model=sherpa_onnx.OfflineTtsModelConfig(**models, provider=provider, num_threads=threads)
    )
    if not config.validate():
        raise RuntimeError("the configuration is not valid")
    return sherpa_onnx.OfflineTts(config)


def main() -> int:
    """Try it; returns an exit status."""
    try:
        made = make_model(**json.load(sys.stdin))
    except (RuntimeError, TypeError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(json.dumps({"rate_hz": made.sample_rate, "speakers": made.num_speakers}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
