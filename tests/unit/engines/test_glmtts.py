"""The engine glmtts says what it is given, and what goes wrong in the checkout stays there."""

from __future__ import annotations

import copy
import io
import json
import logging
import os
import random
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.glmtts_double import (
    CACHE,
    DOUBLE,
    PROMPT_TEXT,
    copy_of_the_double,
    double_engine,
    recording,
    speak_all,
)
from tts_tasks.errors import (
    EngineError,
    EngineLoadError,
    EngineLostError,
    EngineOutOfMemoryError,
    RequestError,
    UnspeakableTextError,
)
from tts_tasks.lexicons import Lexicon, entry
from tts_workers.engines.base import FreesMemory, Segment, SpeakOptions, VoiceReference
from tts_workers.engines.glmtts.failures import lost_the_device, ran_out_of_memory
from tts_workers.engines.glmtts.history import cache_of, state_of
from tts_workers.memory import with_memory_freed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tts_workers.engines.base import EngineVoice
    from tts_workers.engines.glmtts import GlmTtsEngine

LONG = "".join(f"第{n}段，请各位旅客注意，开往北京南站的列车即将进站，请等候。" for n in range(20))
OTHER = VoiceReference("other", PROMPT_TEXT, recording())


@pytest.fixture
def engine() -> Iterator[GlmTtsEngine]:
    """One on the double, loaded."""
    engine = double_engine()
    engine.load("cpu")
    yield engine
    engine.close()


@pytest.fixture
def voice(engine: GlmTtsEngine) -> EngineVoice:
    """Its default voice."""
    return engine.encode_voice(VoiceReference())


def say(engine: GlmTtsEngine, text: str, **options: Any) -> np.ndarray[Any, Any]:
    """Return the samples of one segment."""
    voice = engine.encode_voice(VoiceReference())
    return engine.speak(Segment(text), voice, None, SpeakOptions(**options)).samples


# -- the text -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        # 60 units or fewer, and more syllables than the cutting allows: IndexError in the checkout
        " ".join(["incomprehensibility", "international", "university"] * 9),
        " 你好，请进。",  # a space at the beginning: AssertionError
        "请" * 59,
    ],
)
def test_what_the_checkouts_cutting_fails_on_never_reaches_it(
    engine: GlmTtsEngine, text: str
) -> None:
    """A segment is spoken whole, in one go, as our front end has cut it."""
    whole = text.strip()
    spoken = speak_all(engine, [Segment(text)])

    assert [len(spoken), len((spoken[0].state or {})["text_tokens"])] == [1, 1]
    assert np.array_equal(spoken[0].samples, say(engine, whole, seed=7))


def test_the_double_has_the_faults_that_are_guarded_against(engine: GlmTtsEngine) -> None:
    """Else the test above would show nothing."""
    front_end = engine._need_loaded().model.text._inner
    with pytest.raises(IndexError):
        front_end.split_by_len(" ".join(["incomprehensibility"] * 40))
    with pytest.raises(AssertionError):
        front_end.split_by_len(" 你好")


def test_a_segment_of_one_token_does_not_end_the_job(engine: GlmTtsEngine) -> None:
    """The checkout cannot go on from a history with one; so it is not remembered."""
    first, second = Segment("嗯"), Segment("你好，请进。")
    one, two = speak_all(engine, [first, second])

    assert one.samples.size > 0
    assert one.state is not None
    assert one.state["text_tokens"] == []
    assert np.array_equal(two.samples, say(engine, "你好，请进。", seed=7))


def test_what_the_checkouts_normaliser_empties_is_unspeakable(
    engine: GlmTtsEngine, voice: EngineVoice
) -> None:
    """It would make sounds of nothing but a full stop."""
    with pytest.raises(UnspeakableTextError, match="normaliser leaves nothing"):
        engine.speak(Segment("🎉"), voice, None, SpeakOptions())


def test_the_checkouts_own_rules_still_apply(engine: GlmTtsEngine) -> None:
    """Its dictionary replaces 欸 by 诶: the model was trained on that."""
    assert np.array_equal(say(engine, "欸，来了。"), say(engine, "诶，来了。"))


def test_text_cannot_hold_the_models_own_tokens(engine: GlmTtsEngine) -> None:
    """What a user types is text, also where it looks like a token."""
    segments = engine.split("请听<|endoftext|>和<|CH|><|ONG2|>。")

    assert not any("<|" in segment.text or "|>" in segment.text for segment in segments)


def test_phonemes_in_a_segment_reach_the_model_as_they_are(engine: GlmTtsEngine) -> None:
    """The normaliser would spell them out."""
    said: list[str] = []
    frontend = engine._need_loaded().model.frontend
    tokenise = frontend.tokenize_fn
    frontend.tokenize_fn = lambda text: [said.append(text), tokenise(text)][1]
    say(engine, "我们去<|CH|><|ONG2|><|Q|><|ING4|>看A先生<|I1|>")

    assert said[-1] == "我们去<|CH|><|ONG2|><|Q|><|ING4|>看a先生<|I1|>。"


def test_phoneme_mode_hands_over_phonemes() -> None:
    """TTS_GLMTTS_PHONEME: the checkout's dictionary says 重庆 as it is said."""
    engine = double_engine(phoneme=True)
    engine.load("cpu")
    written, spelt = say(engine, "重庆。"), say(engine, "<|CH|><|ONG2|><|Q|><|ING4|>。")
    plain = double_engine()
    plain.load("cpu")

    assert np.array_equal(written, spelt)
    assert not np.array_equal(say(plain, "重庆。"), written)


def test_what_a_lexicon_says_reaches_the_model_as_phonemes(engine: GlmTtsEngine) -> None:
    """In the place of the phrase, whatever the normaliser does around it."""
    lexicon = Lexicon((entry("重庆", "pinyin", "chong2 qing4"), entry("GLM", "text", "吉艾鲁")))
    (segment,) = engine.split("我们去重庆看GLM。", lexicon)

    assert segment.text == "我们去<|CH|><|ONG2|><|Q|><|ING4|>看吉艾鲁。"
    assert np.array_equal(
        say(engine, segment.text), say(engine, "我们去<|CH|><|ONG2|><|Q|><|ING4|>看吉艾鲁。")
    )
    assert not np.array_equal(say(engine, segment.text), say(engine, "我们去重庆看吉艾鲁。"))
    assert engine.capabilities().features == {"clone", "emotion", "phoneme"}  # what is routed by
    assert engine.capabilities().voices == ("default",)


def test_a_lexicon_that_cannot_be_said_is_refused(engine: GlmTtsEngine) -> None:
    """Rather than ignored."""
    with pytest.raises(RequestError, match="lexicon"):
        engine.split("这是gif。", Lexicon((entry("gif", "ipa", "dʒɪf"),)))


# -- state and seed -------------------------------------------------------------------------------


def test_a_long_text_goes_on_from_any_segment_in_another_process(engine: GlmTtsEngine) -> None:
    """Through JSON, in a process of its own: the same to the bit."""
    segments = engine.split(LONG)[:12]
    whole = speak_all(engine, segments)
    program = (
        "import sys, json\n"
        "from tests.glmtts_double import *\n"
        f"engine = double_engine(cache={str(CACHE)!r}); engine.load('cpu')\n"
        "at, text, state = json.load(sys.stdin)\n"
        "spoken = speak_all(engine, engine.split(text)[at:12], state)\n"
        "sys.stdout.buffer.write(b''.join(one.samples.tobytes() for one in spoken))\n"
    )
    for at in (1, 7):
        done = subprocess.run(
            [sys.executable, "-c", program],
            input=json.dumps([at, LONG, whole[at - 1].state]).encode(),
            capture_output=True,
            check=True,
            cwd=DOUBLE.parents[2],
        )
        assert done.stdout == b"".join(one.samples.tobytes() for one in whole[at:])


def test_the_history_matters_and_is_cut_by_the_checkout(engine: GlmTtsEngine) -> None:
    """It is not forgotten, and does not grow with the text."""
    segments = engine.split(LONG)
    spoken = speak_all(engine, segments)
    remembered = [len((one.state or {})["speech_tokens"]) for one in spoken]

    assert not np.array_equal(spoken[1].samples, say(engine, segments[1].text, seed=7))
    assert max(remembered) < len(segments)
    assert max(len(json.dumps(one.state)) for one in spoken) < 20_000


def test_neither_voice_nor_state_is_changed(engine: GlmTtsEngine, voice: EngineVoice) -> None:
    """The checkout changes its lists in place; they are not those of other jobs."""
    segments = engine.split(LONG)
    state = speak_all(engine, segments[:3])[-1].state
    before = copy.deepcopy((state, voice.payload.text_tokens, voice.payload.speech_tokens))
    for segment in segments:
        engine.speak(segment, voice, state, SpeakOptions(seed=1))

    assert (state, voice.payload.text_tokens, voice.payload.speech_tokens) == before


def test_a_state_of_another_engine_is_refused(engine: GlmTtsEngine, voice: EngineVoice) -> None:
    """Not taken for an empty one."""
    for state in ({"history": [1]}, {"version": 2}, {"version": 1, "text_tokens": [[1, 2]]}):
        with pytest.raises(EngineError, match="state"):
            engine.speak(Segment("你好。"), voice, state, SpeakOptions())


def test_a_cache_and_its_state_say_the_same(engine: GlmTtsEngine, voice: EngineVoice) -> None:
    """There and back, what is remembered does not change."""
    state = speak_all(engine, engine.split(LONG)[:4])[-1].state
    torch = engine._need_loaded().model.torch

    assert state_of(cache_of(voice.payload, state, torch)) == state


def test_the_seed_decides_the_sound(engine: GlmTtsEngine) -> None:
    """Also the largest that a request may have."""
    assert not np.array_equal(say(engine, "你好。", seed=1), say(engine, "你好。", seed=2))
    assert say(engine, "你好。", seed=2**32 - 1).size


def test_other_peoples_random_numbers_are_left_alone(engine: GlmTtsEngine) -> None:
    """The checkout seeds the global generators; jitter drawn from them must not become equal."""
    drawn = []
    for seed in (5, 6):
        random.seed(seed)
        np.random.seed(seed)
        say(engine, "你好。", seed=1)
        drawn.append((random.random(), float(np.random.random())))
    random.seed(5)
    np.random.seed(5)

    assert drawn[0] == (random.random(), float(np.random.random())) != drawn[1]


def test_another_speed_is_refused(engine: GlmTtsEngine) -> None:
    """It has no such feature."""
    with pytest.raises(RequestError, match="speed"):
        say(engine, "你好。", speed=1.5)


# -- voices ---------------------------------------------------------------------------------------


def encodings(engine: GlmTtsEngine) -> int:
    """How many recordings the checkout has encoded."""
    return int(engine._need_loaded().model.frontend.encodings)


def test_a_voice_is_encoded_once(engine: GlmTtsEngine) -> None:
    """The content decides, not the name."""
    engine.encode_voice(OTHER)
    again = VoiceReference("by another name", PROMPT_TEXT, recording())
    assert engine.encode_voice(again).reference is again
    assert encodings(engine) == 1
    engine.encode_voice(VoiceReference("other", PROMPT_TEXT, recording(hertz=150.0)))
    engine.encode_voice(VoiceReference("other", f"{PROMPT_TEXT}真的。", recording()))
    assert encodings(engine) == 3


@pytest.mark.parametrize("rate_hz", [24_000, 32_000])
def test_a_voice_has_the_spectrum_of_its_length_at_either_rate(rate_hz: int) -> None:
    """50 frames a second: a recording that was not resampled would have others, and be slurred."""
    engine = double_engine(sample_rate_hz=rate_hz)
    engine.load("cpu")
    for recorded_hz in (16_000, 44_100):
        reference = VoiceReference("v", PROMPT_TEXT, recording(4.0, recorded_hz))
        assert engine.encode_voice(reference).payload.mel.shape == (200, 80)


def test_voices_that_were_used_last_are_kept(
    engine: GlmTtsEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not all there ever were."""
    monkeypatch.setattr("tts_workers.engines.glmtts.engine._VOICES_KEPT", 2)
    three = [VoiceReference("v", PROMPT_TEXT, recording(hertz=100.0 + n)) for n in range(3)]
    for reference in (three[0], three[1], three[0], three[2], three[0]):
        engine.encode_voice(reference)
    assert encodings(engine) == 3
    engine.encode_voice(three[1])
    assert encodings(engine) == 4


def test_another_voice_sounds_different(engine: GlmTtsEngine) -> None:
    """The reference is used."""
    segments = engine.split("你好，请进。")
    ours, theirs = speak_all(engine, segments), speak_all(engine, segments, voice=OTHER)

    assert not np.array_equal(ours[0].samples, theirs[0].samples)


def test_a_packed_voice_speaks_the_same_elsewhere(engine: GlmTtsEngine) -> None:
    """Another worker that unpacks it need not encode, and says the same to the bit."""
    segments = engine.split("你好，请进。")
    expected = speak_all(engine, segments, voice=OTHER)
    packed = engine.pack_voice(engine.encode_voice(OTHER))
    assert packed == engine.pack_voice(engine.encode_voice(OTHER))
    other = double_engine()
    other.load("cpu")
    voice = other.unpack_voice(OTHER, packed)
    spoken = other.speak(segments[0], voice, None, SpeakOptions(seed=7))

    assert encodings(other) == 0
    assert voice.reference is OTHER
    assert np.array_equal(spoken.samples, expected[0].samples)


def test_damaged_bytes_are_no_voice(engine: GlmTtsEngine) -> None:
    """Whatever the storage gives back: an error of the engine, and nothing is run of it."""
    packed = engine.pack_voice(engine.encode_voice(OTHER))
    for at in range(0, len(packed), max(1, len(packed) // 40)):
        damaged = packed[:at] + bytes([packed[at] ^ 0xFF]) + packed[at + 1 :]
        for data in (damaged, packed[:at]):
            try:
                voice = engine.unpack_voice(OTHER, data)
            except EngineError:
                continue
            assert engine.speak(Segment("你好。"), voice, None, SpeakOptions()).samples.size


class _Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_packed_voice_runs_nothing(engine: GlmTtsEngine, tmp_path: Path) -> None:
    """Storage is shared: whoever writes there must not get code into workers."""
    packed = io.BytesIO()
    trap = np.array([_Trap(tmp_path / "sprung")], dtype=object)
    np.savez(packed, head=trap, mel=trap, speaker=trap)  # type: ignore[arg-type, unused-ignore]
    with pytest.raises(EngineError, match="cannot be read"):
        engine.unpack_voice(OTHER, packed.getvalue())

    assert not (tmp_path / "sprung").exists()


def test_a_voice_of_another_engine_is_refused(engine: GlmTtsEngine, voice: EngineVoice) -> None:
    """And so is a name that stands for nothing here."""
    foreign = type(voice)(voice.reference, "zh+f2")
    with pytest.raises(EngineError, match="did not encode"):
        engine.speak(Segment("你好。"), foreign, None, SpeakOptions())
    with pytest.raises(RequestError, match="zh"):
        engine.encode_voice(VoiceReference("zh"))


def test_the_default_voice_can_be_set(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One's own recording, and then no word of the licence of the checkout's example."""
    audio = tmp_path / "mine.wav"
    audio.write_bytes(recording())
    engine = double_engine(voice_audio=str(audio), voice_text=PROMPT_TEXT)
    engine.load("cpu")

    assert not [record for record in caplog.records if "research only" in record.message]
    assert np.array_equal(
        say(engine, "你好。", seed=7),
        speak_all(engine, [Segment("你好。")], voice=OTHER)[0].samples,
    )


def test_the_checkouts_example_is_used_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its licence is for research: whoever serves people is told."""
    double_engine().load("cpu")

    assert [r for r in caplog.records if r.levelno == logging.WARNING and "research" in r.message]


def test_no_default_voice_is_a_clear_error(tmp_path: Path) -> None:
    """A worker has to speak before it is ready."""
    home = copy_of_the_double(tmp_path)
    (home / "examples/prompt/hum.flac").unlink()
    with pytest.raises(EngineLoadError, match="TTS_GLMTTS_VOICE_AUDIO"):
        double_engine(home=str(home)).load("cpu")
    with pytest.raises(EngineLoadError, match=r"absent\.wav"):
        double_engine(voice_audio=str(tmp_path / "absent.wav"), voice_text="你好").load("cpu")


# -- memory and the device ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["oom", "cublas"])
def test_out_of_memory_is_told_and_memory_is_given_back(
    engine: GlmTtsEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    """However the library says it; after the memory was freed the job goes on in the same place."""
    voice = engine.encode_voice(OTHER)
    monkeypatch.setenv("GLMTTS_DOUBLE_FAULT", f"{kind}:显存:{tmp_path / 'once'}")
    segment = Segment("显存不够的时候。")
    told: list[str] = []
    emptied = engine._need_loaded().model.torch.cuda.emptied

    assert isinstance(engine, FreesMemory)
    spoken = with_memory_freed(
        engine, lambda: engine.speak(segment, voice, None, SpeakOptions()), told.append
    )
    assert spoken.samples.size
    assert len(told) == 1
    assert engine._need_loaded().model.torch.cuda.emptied == emptied + 1
    monkeypatch.setenv("GLMTTS_DOUBLE_FAULT", f"{kind}:显存")
    with pytest.raises(EngineOutOfMemoryError):
        engine.speak(segment, voice, None, SpeakOptions())
    engine.encode_voice(OTHER)
    assert encodings(engine) == 2  # the encoded voices were let go too


@pytest.fixture
def _broken_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """On 坏了 the CUDA context is lost, until the end of the test."""
    monkeypatch.setenv("GLMTTS_DOUBLE_FAULT", "assert:坏了")
    monkeypatch.setenv("GLMTTS_DOUBLE_LOST_IN", "")


@pytest.mark.usefixtures("_broken_device")
def test_a_lost_cuda_context_is_a_lost_engine(engine: GlmTtsEngine) -> None:
    """With the reason: whoever runs the engine ends its process, and no other job meets this."""
    with pytest.raises(EngineLostError, match=r"context is lost: .*device-side assert") as raised:
        say(engine, "坏了。")
    assert isinstance(raised.value.__cause__, RuntimeError)


@pytest.mark.usefixtures("_broken_device")
def test_the_double_keeps_its_lost_context(engine: GlmTtsEngine) -> None:
    """Else the tests of workers would not notice that a process lives on: it says rubbish."""
    expected = say(engine, "你好。")
    with pytest.raises(EngineLostError):
        say(engine, "坏了。")

    assert not np.array_equal(say(engine, "你好。"), expected)
    with pytest.raises(EngineLostError, match="device-side assert"):
        engine.load("cpu")


def test_a_context_that_is_lost_over_a_voice_is_a_lost_engine(
    engine: GlmTtsEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recording is encoded on the device, too."""

    def fail(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with ...")

    monkeypatch.setattr(engine._need_loaded().model.frontend, "_extract_speech_token", fail)
    with pytest.raises(EngineLostError, match=r"lost: .* was encountered$"):
        engine.encode_voice(OTHER)


class _AcceleratorError(RuntimeError):
    """As torch's."""


@pytest.mark.parametrize(
    ("said", "device_works", "lost"),
    [
        ("CUDA error: an illegal memory access was encountered", True, True),
        ("CUDA error: device-side assert triggered", True, True),
        ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", True, True),
        ("CUDA error: unknown error", False, True),
        ("CUDA error: invalid argument", True, False),
        ("CUDA driver error: initialization error", False, True),
        ("The size of tensor a (3) must match the size of tensor b (4)", False, False),
    ],
)
def test_a_lost_device_is_told_from_other_errors(
    said: str, *, device_works: bool, lost: bool
) -> None:
    """By what CUDA says, and where that is not plain, by asking the device."""

    def synchronise() -> None:
        if not device_works:
            raise _AcceleratorError("CUDA error: again")

    assert lost_the_device(_AcceleratorError(said), synchronise) is lost


@pytest.mark.parametrize(
    "said",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB.",
        "CUDA error: out of memory",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "Failed to allocate memory for requested buffer of size 4096",
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes",
    ],
)
def test_out_of_memory_is_known_by_its_words(said: str) -> None:
    """Libraries have it as a plain RuntimeError."""
    assert ran_out_of_memory(RuntimeError(said))
    assert not ran_out_of_memory(RuntimeError("memory format is not contiguous"))


def test_tokens_that_are_no_speech_are_left_out(
    engine: GlmTtsEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a GPU one of them would be looked up beyond its table, and end the process."""
    expected = say(engine, "你好，请进。")
    monkeypatch.setenv("GLMTTS_DOUBLE_FAULT", "stray:你好")

    assert np.array_equal(say(engine, "你好，请进。"), expected)
    assert "2 of 32 tokens are no speech" in caplog.text


def test_samples_that_are_not_numbers_are_an_error(
    engine: GlmTtsEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would be published as noise."""
    monkeypatch.setenv("GLMTTS_DOUBLE_FAULT", "nan:你好")
    with pytest.raises(EngineError, match="not a number"):
        say(engine, "你好，请进。")


def _index_error(*_: object) -> object:
    return [*_][len(_)]


def test_an_error_of_the_checkout_is_an_error_of_the_engine(
    engine: GlmTtsEngine, voice: EngineVoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its class and words; the engine goes on with the next segment."""
    expected = say(engine, "你好。")
    model = engine._need_loaded().model
    with monkeypatch.context() as broken:
        broken.setattr(model.llm, "inference", _index_error)
        with pytest.raises(EngineError, match="IndexError: list index out of range"):
            say(engine, "你好。")

    assert np.array_equal(say(engine, "你好。"), expected)


def test_an_engine_that_is_not_loaded_says_so() -> None:
    """Instead of an AttributeError."""
    with pytest.raises(EngineError, match="not loaded"):
        double_engine().fingerprint()
