"""Bugs put in on purpose: what is published, and what decides its sound."""

from __future__ import annotations

from tests.mutants.catalogue.mutant import Mutant
from tests.mutants.catalogue.suites import DISK, LEXICONS, PUBLISH, RUNNER

_WORKERS = "workers/tts_workers"

MUTANTS = (
    # -- pins -----------------------------------------------------------------------------------
    Mutant(
        "a-lexicon-is-not-pinned",
        "5",
        "tts_tasks/pinning.py",
        'lambda: {"lexicon": lexicons.find(name).pin}',
        'lambda: {"lexicon": lexicons.find(name).name}',
        LEXICONS,
    ),
    Mutant(
        "a-pin-is-taken-for-any-content",
        "5",
        "tts_tasks/lexicons/store.py",
        "if wanted.sha256 not in (None, found.sha256):",
        "if False:",
        LEXICONS,
    ),
    Mutant(
        "a-worker-keeps-what-a-name-meant",
        "5",
        "tts_tasks/lexicons/store.py",
        "if is_pin:  # what else a name means may change",
        "if True:",
        LEXICONS,
    ),
    # -- publish --------------------------------------------------------------------------------
    Mutant(
        "publish-overwrites",
        "4",
        "tts_tasks/storage/local_files.py",
        "os.link(temp, leaf, src_dir_fd=temp_folder, dst_dir_fd=folder, follow_symlinks=False)",
        "os.replace(temp, leaf, src_dir_fd=temp_folder, dst_dir_fd=folder)",
        PUBLISH,
    ),
    Mutant(
        "publish-under-the-final-name-at-once",
        "4",
        "tts_tasks/storage/local.py",
        "created = link_if_absent(temp_folder, temp, folder, leaf)",
        "created = (self.root / name).write_bytes(data) >= 0",
        DISK,
    ),
    Mutant(
        "publish-before-the-bytes-are-synced",
        "4",
        "tts_tasks/storage/local.py",
        "                    for fd in written:\n                        os.fsync(fd)\n",
        "",
        DISK,
    ),
    Mutant(
        "created-together-and-not-synced",
        "4",
        "tts_tasks/storage/local.py",
        "                for folder in folders.values():\n                    os.fsync(folder)\n",
        "",
        DISK,
    ),
    Mutant(
        "published-together-without-looking",
        "4",
        "tts_tasks/storage/artifacts.py",
        "return [name for name, mine in zip(names, created, strict=True) if mine]",
        "return names[: len(created)]",
        PUBLISH,
    ),
    Mutant(
        "second-finisher-does-not-adopt",
        "4",
        "tts_tasks/storage/artifacts.py",
        "if ours and held is not None:",
        "if False:",
        PUBLISH,
    ),
    Mutant(
        "anothers-reservation-is-taken",
        "4",
        "tts_tasks/storage/artifacts.py",
        "may_create = held is not None and (ours or held.sha256 == mine.sha256)",
        "may_create = held is not None",
        PUBLISH,
    ),
    Mutant(
        "another-sound-is-adopted",
        "4",
        "tts_tasks/storage/artifacts.py",
        "return self.job == owner.job and self.sound == owner.sound",
        "return self.job == owner.job",
        PUBLISH,
    ),
    Mutant(
        "success-without-its-artifact",
        "4",
        f"{_WORKERS}/job_runner.py",
        "(told,) = publish_all(storage, [mine], self._insist)",
        'told = __import__("tts_tasks.storage").storage.Published('
        'name, "", "", 0, adopted=False, details=details)',
        RUNNER,
    ),
    Mutant(
        "an-artifact-without-its-subtitles",
        "4",
        f"{_WORKERS}/attempts.py",
        "subtitles = [(mine, one) for mine in publications for one in mine.subtitles]",
        "subtitles = [(mine, one) for mine in publications for one in mine.subtitles[:0]]",
        ("tests/unit/audio_out/test_publishing.py",),
    ),
)
