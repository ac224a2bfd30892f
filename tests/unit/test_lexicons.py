"""Lexicons: what an entry may be, where phrases are found, and the three forms of a file."""

from __future__ import annotations

import json
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts_tasks.errors import RequestError
from tts_tasks.lexicons import Lexicon, entry, export_lexicon, forms, lexicon, parse_lexicon
from tts_tasks.lexicons.glmtts import parse_tokens, syllable_to_tokens
from tts_tasks.lexicons.ipa import parse_ipa
from tts_tasks.lexicons.pinyin import SYLLABLES, parse_syllable

OURS = """\
{"phrase": "重庆", "pinyin": "chóng qìng"}
{"phrase": "行长", "pinyin": "hang2 zhang3"}
{"phrase": "GIF", "ipa": "/dʒɪf/"}
{"phrase": "CFO", "text": "首席财务官"}
{"phrase": "心宽体胖", "pinyin": "_ _ _ pan2"}
"""


def phrases(found: Lexicon, text: str) -> list[str]:
    return [match.entry.phrase for match in found.matches(text)]


# -- entries --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "syllable"),
    [
        ("chong2", "chong2"), ("chóng", "chong2"), ("LÜ4", "lv4"), ("lǜ", "lv4"), ("lu:4", "lv4"),
        ("nǚ", "nv3"), ("nüè", "nve4"), ("jv1", "ju1"), ("xü3", "xu3"), ("yü2", "yu2"),
        ("de5", "de5"), ("er2", "er2"),
    ],
)  # fmt: skip
def test_pinyin_is_taken_as_people_write_it(written: str, syllable: str) -> None:
    """Tone marks become numbers, and every spelling of ü becomes v."""
    assert parse_syllable(written) == syllable


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("chong", "has no tone"), ("chong6", "no syllable"), ("chong25", "no syllable"),
        ("chóng2", "two tones"), ("chóngqìng", "two tones"), ("bong1", "there is no syllable"),
        ("v4", "there is no syllable"), ("4", "no syllable"), ("重", "no syllable"),
    ],
)  # fmt: skip
def test_what_is_no_syllable_is_refused(written: str, reason: str) -> None:
    """A missing tone and a syllable that Mandarin does not have are named."""
    with pytest.raises(ValueError, match=reason):
        parse_syllable(written)


@pytest.mark.parametrize(
    ("phrase", "kind", "said", "reason"),
    [
        ("重庆", "pinyin", "chong2", "1 syllables for 2"),
        ("重庆", "pinyin", "chong2 qing4 shi4", "3 syllables for 2"),
        ("重庆", "pinyin", "_ _", "no syllable"),
        ("重庆", "pinyin", "", "no syllable"),
        ("GLM", "pinyin", "_ ai4", "the phrase holds none"),
        ("，", "pinyin", "dou4", "no letter"),
        ("GIF", "ipa", "dʒɪ中", "no character of the IPA"),
        ("GIF", "ipa", "ˈ", "no sound"),
        ("", "text", "x", "empty"),
        (" a", "text", "x", "white space"),
        ("a\x00", "text", "x", "U\\+0000"),
        ("a", "text", "\ud800", "U\\+D800"),
        ("a\ue000", "text", "x", "U\\+E000"),
        ("a" * 65, "text", "x", "at most 64"),
        ("a", "text", "x" * 513, "at most 512"),
        ("重", "pinyin", "chong2 " * 200, "at most 512"),
    ],
)
def test_a_bad_entry_says_why(phrase: str, kind: str, said: str, reason: str) -> None:
    """What is wrong with an entry is said in words."""
    with pytest.raises(ValueError, match=reason):
        entry(phrase, kind, said)  # type: ignore[arg-type]


def test_pinyin_of_a_mixed_phrase_counts_its_chinese_characters() -> None:
    """Letters in a phrase stay; a word of letters alone may have any number of syllables."""
    assert entry("K歌", "pinyin", "ge1").syllables == ("ge1",)
    assert entry("GLM", "pinyin", "ji2 ai4 mu3").syllables == ("ji2", "ai4", "mu3")


def test_ipa_loses_its_slashes_and_keyboard_spellings() -> None:
    """What a keyboard has for IPA becomes IPA."""
    assert parse_ipa("/g'a:/") == parse_ipa("[ɡˈaː]") == "ɡˈaː"


# -- finding phrases ------------------------------------------------------------------------------


def test_the_longest_phrase_counts_and_nothing_is_looked_at_twice() -> None:
    """Of two phrases at one place the longer is found; matches do not overlap."""
    found = Lexicon(
        (
            entry("行", "pinyin", "xing2"),
            entry("银行", "pinyin", "yin2 hang2"),
            entry("银行行长", "pinyin", "yin2 hang2 hang2 zhang3"),
            entry("长", "text", "银行"),
        )
    )
    assert phrases(found, "银行行长和银行行") == ["银行行长", "银行", "行"]
    assert phrases(found, "长") == ["长"]


def test_words_of_letters_are_not_found_within_longer_ones() -> None:
    """AI is not in SAID, 15 not in 2015, but AI在 and 3D打印 are found."""
    found = Lexicon((entry("AI", "text", "x"), entry("15", "text", "y"), entry("C++", "text", "z")))
    assert phrases(found, "SAID AIM 2015 151") == []
    assert phrases(found, "AI在第15个C++er，(AI)") == ["AI", "15", "C++", "AI"]
    assert phrases(found, "ai") == []


def test_a_lexicon_is_its_content() -> None:
    """The order of entries does not matter, and a phrase is there once."""
    one, two = entry("一", "pinyin", "yao1"), entry("二", "text", "两")
    assert Lexicon((one, two)) == Lexicon((two, one))
    assert Lexicon((one, two)).sha256 == Lexicon((two, one)).sha256 != Lexicon((one,)).sha256
    with pytest.raises(ValueError, match="twice"):
        Lexicon((one, entry("一", "text", "1")))


@given(
    st.text("重庆银行长abC1 ", max_size=40),
    st.sets(st.text("重庆银行长abC1", min_size=1), max_size=8),
)
def test_matches_are_where_they_say(text: str, words: set[str]) -> None:
    """Matches come in order, do not overlap, and hold their phrase."""
    found = Lexicon(tuple(entry(word, "text", "x") for word in words))
    position = 0
    for match in found.matches(text):
        assert match.start >= position
        assert text[match.start : match.end] == match.entry.phrase
        position = match.end


# -- files ----------------------------------------------------------------------------------------


def test_ours_comes_back_as_it_went() -> None:
    """Our form holds everything."""
    found = parse_lexicon(OURS.encode())
    assert [one.phrase for one in found.entries] == sorted(
        ["重庆", "行长", "GIF", "CFO", "心宽体胖"]
    )
    exported = export_lexicon(found, "ours")
    assert parse_lexicon(exported.text.encode()) == found
    assert not exported.left_out


def test_glmtts_dictionary_comes_back_as_it_went() -> None:
    """Tokens become pinyin and tokens again; characters in between are left to the engine."""
    lines = [
        {"心宽体胖": "心宽体<|P|><|AN2|>"},
        {"亿": "<|I4|>"},
        {"K歌": "K<|G|><|E1|>"},
        {"知识": "<|ZH|><|III1|><|SH|><|III5|>"},
        {"GLM": "<|J|><|I2|><|AI4|><|M|><|U3|>"},
        {"CFO": "首席财务官"},
    ]
    data = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    found = parse_lexicon(data.encode())
    said = {one.phrase: one.said for one in found.entries}
    assert said["心宽体胖"] == "_ _ _ pan2"
    assert (said["亿"], said["知识"], said["GLM"]) == ("yi4", "zhi1 shi5", "ji2 ai4 mu3")
    exported = export_lexicon(found, "glmtts-g2p")
    assert not exported.left_out
    assert parse_lexicon(exported.text.encode(), "glmtts-g2p") == found
    assert sorted(exported.text.splitlines()) == sorted(data.splitlines())


def test_glmtts_replacements_come_back_as_they_went() -> None:
    """Origin and new are other words for a phrase, and nothing else has a place there."""
    data = '{"origin": "GPU", "new": "显卡"}\n{"origin": "®", "new": ""}\n'
    found = parse_lexicon(data.encode())
    exported = export_lexicon(found, "glmtts-replace")
    assert sorted(exported.text.splitlines()) == sorted(data.splitlines())
    mixed = parse_lexicon(OURS.encode())
    assert {one.kind for one in export_lexicon(mixed, "glmtts-replace").left_out} == {
        "pinyin",
        "ipa",
    }
    assert [one.phrase for one in export_lexicon(mixed, "glmtts-g2p").left_out] == ["GIF"]


def test_every_syllable_has_its_tokens() -> None:
    """Each syllable in each tone becomes tokens that mean it, but for those the model lacks."""
    without = set()
    for syllable, tone in product(SYLLABLES, "12345"):
        tokens = syllable_to_tokens(syllable + tone)
        if tokens is None:
            without.add(syllable + tone)
        else:
            assert parse_tokens(tokens) == [syllable + tone]
    assert {"er1", "er5", "yo2", "weng2"} <= without
    assert len(without) < 100


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "holds no entry"),
        (b"\n\n", "holds no entry"),
        (b"[1]", "line 1: must be a JSON object"),
        (b'{"phrase": "a"', "line 1: is not JSON"),
        (b'\n{"phrase": "a", "text": "b"}\n{"phrase": "c"}', "line 3: beside 'phrase'"),
        (b'{"phrase": "a", "text": "b", "ipa": "c"}', "exactly one of"),
        (b'{"phrase": "a", "text": 1}', "must be a string"),
        (b'{"phrase": "a", "phrase": "b", "text": "c"}', "given twice"),
        (b'{"phrase": "a", "text": "b"}\n{"phrase": "a", "text": "c"}', "line 2: 'a' is already"),
        (b'{"phrase": "a", "text": "\xff"}', "line 1: is not UTF-8"),
        ('{"行": "<|H|>"}'.encode(), "initial without its final"),
        ('{"行": "<|UEI1|><|H|>"}'.encode(), "initial without its final"),
        ('{"行": "<|QX|><|ANG2|>"}'.encode(), "no syllable"),
        ('{"行": "长<|H|><|ANG2|>"}'.encode(), "2 places for 1"),
        ('{"行走": "长<|H|><|ANG2|>"}'.encode(), "'长' in the place of '行'"),
        (b'{"origin": "a", "new": "b"}\n{"a": "b"}', "line 2: holds not exactly"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_bad_file_names_the_line(data: bytes, reason: str) -> None:
    """All faults of a file are of its lines, and nothing of it is taken."""
    with pytest.raises(RequestError) as caught:
        parse_lexicon(data)
    assert caught.value.field == "lexicon"
    assert reason in caught.value.reason


def test_files_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is too large, or has too many entries, is refused; many faults are counted."""
    monkeypatch.setattr(forms, "MAX_FILE_BYTES", 10)
    with pytest.raises(RequestError, match="at most 10"):
        parse_lexicon(OURS.encode())
    monkeypatch.undo()
    monkeypatch.setattr(forms, "MAX_ENTRIES", 2)
    with pytest.raises(RequestError, match="line 3: a lexicon holds at most 2"):
        parse_lexicon(OURS.encode())
    monkeypatch.setattr(lexicon, "MAX_ENTRIES", 2)
    with pytest.raises(ValueError, match="at most 2"):
        Lexicon(tuple(entry(phrase, "text", "x") for phrase in "abc"))
    with pytest.raises(RequestError, match=r"line 1: .*; line 5: .*; and 4 more"):
        parse_lexicon(b"{}\n" * 9)


def test_a_byte_order_mark_and_crlf_are_fine() -> None:
    """Files of Windows are read."""
    assert parse_lexicon(b"\xef\xbb\xbf" + OURS.replace("\n", "\r\n").encode()) == parse_lexicon(
        OURS.encode()
    )
