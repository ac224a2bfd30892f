"""What would be said for a text: ``python -m tts_workers.pronounce``, asked by `ttsctl lexicon`.

Reads one JSON object from stdin: ``text``, ``voice``, ``engine``, and ``lexicon`` (in our form, or
null). Writes one to stdout: the engine, the overrides that were found in the text as written, and
the segments as the engine gets them, with its sounds where it can name them. What the request got
wrong is ``{"error": {"field", "reason"}}``. No cluster is needed.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from typing import Any

from tts_tasks.errors import RequestError, TTSError
from tts_tasks.lexicons import Lexicon, parse_lexicon
from tts_workers.engines import load_engine
from tts_workers.engines.base import Engine, VoiceReference


def pronounce(engine: Engine, text: str, voice_name: str, lexicon: Lexicon | None) -> Any:
    """Return what an engine that is loaded would say, as plain JSON values."""
    voice = engine.encode_voice(VoiceReference(voice_name))
    segments = engine.split(text, lexicon) if lexicon else engine.split(text)
    found = lexicon.matches(unicodedata.normalize("NFC", text)) if lexicon else ()
    told: list[dict[str, Any]] = [
        {"text": segment.text, "pause_after_s": segment.pause_after_s, "pinyin": None, "ipa": None}
        for segment in segments
    ]
    from tts_workers.engines.espeak import EspeakEngine

    if isinstance(engine, EspeakEngine):
        from tts_workers.engines.espeak_pinyin import PinyinOfSounds

        pinyin = PinyinOfSounds(engine)
        for segment, one in zip(segments, told, strict=True):
            one["ipa"] = engine.phonemes(segment, voice, ipa=True)
            if engine.is_mandarin(segment, voice):
                one["pinyin"] = pinyin.of(engine.phonemes(segment, voice))
    return {
        "engine": engine.name,
        "version": engine.version,
        "overrides": [
            {
                "phrase": match.entry.phrase,
                "at": match.start,
                "kind": match.entry.kind,
                "said": match.entry.said,
            }
            for match in found
        ],
        "segments": told,
    }


def main() -> int:
    """Entry point; returns the exit code."""
    asked = json.load(sys.stdin)
    try:
        lexicon = parse_lexicon(asked["lexicon"].encode()) if asked["lexicon"] else None
        engine = load_engine(asked["engine"])
        engine.load(asked.get("device", "cpu"))
        try:
            answer = pronounce(engine, asked["text"], asked["voice"], lexicon)
        finally:
            engine.close()
    except RequestError as error:
        answer = {"error": {"field": error.field, "reason": error.reason}}
    except TTSError as error:
        answer = {"error": {"field": "", "reason": str(error)}}
    json.dump(answer, sys.stdout, ensure_ascii=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
