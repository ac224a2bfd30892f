"""Names, paths and ids from outside, checked before they become part of a key or a file's name."""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePosixPath

from tts_tasks.formats import AUDIO_FORMATS
from tts_tasks.wording import shown

MAX_OUTPUT_NAME_BYTES = 180
MAX_PROMPT_AUDIO_BYTES = 1_024
MAX_ID_BYTES = 180

# In names also what makes them look like another name: line separators, text direction, BOM.
_NOT_IN_NAMES = re.compile(
    "[\x00-\x1f\x7f-\x9f\ud800-\udfff\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]"
)
# Names in which nothing is to be normalised, cut off or refused: the most of them by far.
_PLAIN_OUTPUT_NAME = re.compile(r"[A-Za-z0-9_-]+(?:/[A-Za-z0-9_-]+)*")
_DRIVE = re.compile(r"[A-Za-z]:[/\\]")
_AUDIO_SUFFIXES = tuple(f".{name}" for name in AUDIO_FORMATS)


def _check_path_characters(value: str, max_bytes: int) -> None:
    if not value.strip():
        raise ValueError("is empty; leave it out instead")
    if found := _NOT_IN_NAMES.search(value):
        raise ValueError(
            f"holds U+{ord(found.group()):04X} at character {found.start() + 1}; control "
            "characters, half surrogates and direction marks have no place in a name"
        )
    if "\\" in value:
        raise ValueError("holds a backslash; folders are separated by /")
    size_bytes = len(value.encode())
    if size_bytes > max_bytes:
        raise ValueError(f"is {size_bytes} bytes long in UTF-8; at most {max_bytes}")
    if value.startswith("/") or _DRIVE.match(value):
        raise ValueError("is an absolute path; give a relative one")
    if ".." in value.split("/"):
        raise ValueError("holds '..', which would leave its folder")


def safe_output_name(value: str) -> str:
    """Return an output name that cannot leave its prefix; raises ValueError with the reason.

    Subfolders are welcome (``chapter1/005``); absolute paths, ``..``, hidden parts, backslashes
    and control characters are not. Known audio suffixes are dropped: the format decides the
    suffix. The result is in Unicode form NFC, so that what looks the same is the same name; upper
    and lower case stay distinct, as they are in S3 and on Linux. Idempotent: a worker that
    validates again gets the same name.
    """
    if len(value) <= MAX_OUTPUT_NAME_BYTES and _PLAIN_OUTPUT_NAME.fullmatch(value):
        return value
    name = unicodedata.normalize("NFC", value)
    # Before the slow work below: a hostile name may have millions of characters.
    _check_path_characters(name, MAX_OUTPUT_NAME_BYTES)
    *folders, leaf = name.split("/")
    while leaf.lower().endswith(_AUDIO_SUFFIXES):
        leaf = leaf.rpartition(".")[0]
    for part in (*folders, leaf):
        if not part:
            raise ValueError("holds an empty folder or file name")
        if part.startswith("."):
            raise ValueError(f"{shown(part)} begins with a dot; hidden names are refused")
        if part != part.strip():
            raise ValueError(f"{shown(part)} begins or ends with white space")
    for folder in folders:
        # `a.wav/b` and `a` would want a folder and a file of the same name.
        if folder.lower().endswith(_AUDIO_SUFFIXES):
            raise ValueError(f"the folder {shown(folder)} is named like an audio file")
    return "/".join((*folders, leaf))


def safe_id(value: str) -> str:
    """Return the id of a job or a batch as it is; raises ValueError with the reason.

    Ids stand in keys, URLs, logs and file names: no control characters, no braces (which are
    hash tags in Redis keys), no white space at the ends, at most `MAX_ID_BYTES` in UTF-8.
    """
    if not value.strip():
        raise ValueError("is empty; leave it out instead")
    if found := _NOT_IN_NAMES.search(value) or re.search("[{}]", value):
        raise ValueError(f"holds {shown(found.group())} at character {found.start() + 1}")
    if value != value.strip():
        raise ValueError("begins or ends with white space")
    size_bytes = len(value.encode())
    if size_bytes > MAX_ID_BYTES:
        raise ValueError(f"is {size_bytes} bytes long in UTF-8; at most {MAX_ID_BYTES}")
    return value


def safe_prompt_audio(value: str) -> str:
    """Return a relative path that cannot leave its folder; raises ValueError with the reason.

    ``.`` parts and doubled slashes are collapsed. The spelling is otherwise kept: it must match
    the file on disk.
    """
    if "://" in value or value.lower().startswith("data:"):
        raise ValueError("is a URL; give the path of a file beside the batch file")
    _check_path_characters(value, MAX_PROMPT_AUDIO_BYTES)
    path = str(PurePosixPath(value))
    if path == ".":
        raise ValueError("names a folder, not a file")
    return path
