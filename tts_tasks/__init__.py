"""The speech-synthesis cluster that keeps speaking.

>>> from tts_tasks import synthesize
>>> synthesize.delay("你好").get()["uri"]  # doctest: +SKIP
'file:///.../tts_20261120T125301Z_….wav'
"""

from tts_tasks.app import app
from tts_tasks.client import follow, follow_audio, follow_audio_async, submit_batch
from tts_tasks.tasks import synthesize

__all__ = ["app", "follow", "follow_audio", "follow_audio_async", "submit_batch", "synthesize"]
