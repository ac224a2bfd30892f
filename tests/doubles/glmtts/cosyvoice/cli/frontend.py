"""The text front end with its faults, and the encoders of a voice."""

import json
import re
import zlib
from pathlib import Path

import numpy as np
import torch
from tn.chinese.normalizer import Normalizer as ZhNormalizer

PUNCTUATION = "。？！；：、.?!;:，,"
TOKEN = re.compile(r"嗯。|<\|[A-Z]+[1-5]?\|>|[a-z']+|\S")


class TextFrontEnd:
    """Normalises in lower case; cuts as badly as the original."""

    def __init__(self, use_phoneme=False):
        self.zh_tn_model = ZhNormalizer(remove_erhua=False, overwrite_cache=True)
        self.use_phoneme = use_phoneme
        self.replace_dict = {}
        if use_phoneme:
            for line in Path("configs/G2P_replace_dict.jsonl").read_text().splitlines():
                self.replace_dict.update(json.loads(line))

    def text_normalize(self, text):
        custom = Path("./configs/custom_replace.jsonl")
        if custom.exists():  # else skipped without a word
            for line in custom.read_text(encoding="utf-8").splitlines():
                rule = json.loads(line)
                text = text.replace(rule["origin"], rule["new"])
        text = self.zh_tn_model.normalize(text).replace("<", "小于").replace("|", "").lower()
        text = re.sub("[\U0001f300-\U0001faff]", "", text)
        return text if text and text[-1] in PUNCTUATION else text + "。"

    def split_by_len(self, text, min_text_len=30, max_text_len=60):
        units = TOKEN.findall(text)
        assert not text.startswith(" "), "a unit of white space"
        while sum(2 if unit.isascii() else 1 for unit in units) > max_text_len:
            if units[max_text_len] in PUNCTUATION:  # IndexError: fewer units than syllables
                break
            return [
                "".join(units[:max_text_len]),
                *self.split_by_len("".join(units[max_text_len:])),
            ]
        return [text]

    def g2p_infer(self, text):
        for phrase, tokens in self.replace_dict.items():
            text = text.replace(phrase, tokens)
        return text


class SpeechTokenizer:
    """Hears one token for each 40 ms."""

    def extract_speech_token(self, utts):
        tokens = []
        for audio, sample_rate in utts:
            samples = audio.array[0]
            assert sample_rate == 16000
            count = len(samples) // 640
            frames = np.abs(samples[: count * 640]).reshape(count, 640).mean(axis=1)
            tokens.append([int(loud * 1000) % 32768 for loud in frames])
        return tokens


class TTSFrontEnd:
    """Tokens, mel spectrum and speaker."""

    def __init__(self, tokenize_fn, speech_tokenizer, feat_extractor, campplus_model, device=None):
        self.tokenize_fn = tokenize_fn
        self.speech_tokenizer = speech_tokenizer
        self.feat_extractor = feat_extractor
        self.campplus = Path(campplus_model).read_bytes()
        self.encodings = 0

    def _extract_text_token(self, text):
        return torch.tensor([self.tokenize_fn(text)], dtype=torch.int32)

    def _extract_speech_token(self, utts):
        self.encodings += 1
        return torch.tensor(self.speech_tokenizer.extract_speech_token(utts))

    def _extract_speech_feat(self, speech, sample_rate=24000):
        mel = self.feat_extractor(speech).array[0].T
        return torch.tensor(mel[None])

    def _extract_spk_embedding(self, speech):
        who = np.random.default_rng(zlib.crc32(speech.array.tobytes() + self.campplus))
        return torch.tensor(who.standard_normal((1, 192)), dtype=torch.float32)
