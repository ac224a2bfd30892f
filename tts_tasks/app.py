"""The Celery application: ``celery -A tts_tasks worker``, ``celery -A tts_tasks flower``.

Importing it connects to nothing and loads no engine.
"""

from __future__ import annotations

from celery import Celery
from click import Option

app = Celery("tts_tasks", set_as_current=False)
# By name: read when first needed, so that a wrong setting stops no import; and the worker's spawned
# child, which gets the app pickled, finds its configuration again (it would lose `add_defaults`).
app.config_from_object("tts_tasks.celeryconfig")
app.user_options["worker"].add(
    Option(
        ("--gpu",),
        default=None,
        metavar="N|auto|cpu",
        help="Device of this worker: a GPU's index, a free one of this host (auto, the default), "
        "or cpu.",
    )
)
