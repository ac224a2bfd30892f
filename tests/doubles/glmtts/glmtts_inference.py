"""The entry points of the checkout: ``load_models`` and ``generate_long``."""

import itertools
import json
import os
import time
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import torch
from cosyvoice.cli.frontend import TOKEN, SpeechTokenizer, TextFrontEnd, TTSFrontEnd
from flow.flow import Token2Wav
from llm.glmtts import GLMTTS
from utils import seed_util
from utils.audio import mel_spectrogram

DEVICE = torch.device("cpu")
MAX_LLM_SEQ_INP_LEN = 750
HF_HUB_OFFLINE = os.environ.get("HF_HUB_OFFLINE") == "1"  # read once, as by huggingface_hub
one_rate = None


class HubAsked(Exception):  # noqa: N818
    """Somebody would have been asked for a repository called ``ckpt/llm``."""


def _from_pretrained(path):
    if not Path(path).is_dir():
        raise OSError(f"{path}: offline") if HF_HUB_OFFLINE else HubAsked(path)
    return Path(path)


def _token_of(word):
    return zlib.crc32(word.encode()) % 60000 + (60000 if len(word) > 1 else 0)


def load_models(use_phoneme=False, sample_rate=24000):
    global one_rate  # noqa: PLW0603
    if _context_is_lost():
        raise RuntimeError("CUDA error: device-side assert triggered")
    if one_rate not in {None, sample_rate}:
        raise RuntimeError(f"mel basis of {one_rate} Hz, asked for {sample_rate}")
    one_rate = sample_rate
    _from_pretrained("ckpt/vq32k-phoneme-tokenizer")
    weights = json.loads((_from_pretrained("ckpt/llm") / "model.safetensors").read_text())
    speech_tokenizer = SpeechTokenizer()
    hop_size = {24000: 480, 32000: 640}[sample_rate]
    frontend = TTSFrontEnd(
        lambda text: [_token_of(word) for word in TOKEN.findall(text)],
        speech_tokenizer,
        partial(mel_spectrogram, sampling_rate=sample_rate, hop_size=hop_size),
        os.path.join("frontend", "campplus.onnx"),  # noqa: PTH118
    )
    return (
        frontend,
        TextFrontEnd(use_phoneme),
        speech_tokenizer,
        GLMTTS(weights["seed"]),
        Token2Wav(sample_rate),
    )


def local_llm_forward(
    llm,
    prompt_text_token,
    tts_text_token,
    prompt_speech_token,
    beam_size=1,
    sampling=25,
    sample_method="ras",
):
    return llm.inference(
        tts_text_token, prompt_text_token, prompt_speech_token, _fault.pop("stray", False)
    )


def local_flow_forward(flow, token_list, prompt_speech_tokens, speech_feat, embedding):
    wav, full_mel = flow.token2wav_with_cache(
        token_list, prompt_token=prompt_speech_tokens, prompt_feat=speech_feat, embedding=embedding
    )
    time.sleep(float(os.environ.get("GLMTTS_DOUBLE_COST", "0")) * wav.shape[1] / flow.sample_rate)
    return wav.detach().cpu(), full_mel


def get_cached_prompt(cache, synth_text_token, device=DEVICE):
    texts, speech = cache["cache_text_token"], cache["cache_speech_token"]
    text_length = sum(text.shape[1] for text in texts)
    ratio = sum(map(len, speech)) / (text_length or 1.0)
    expected = int(ratio * synth_text_token.shape[1])
    while sum(map(len, speech)) + expected > MAX_LLM_SEQ_INP_LEN and len(speech) > 1:
        for history in (cache["cache_text"], texts, speech):
            history.pop(1)
    tokens = []
    for text in texts:
        tokens.extend(text.squeeze().tolist())  # TypeError for one token
    return torch.tensor([tokens]), torch.tensor([[*itertools.chain(*speech)]], dtype=torch.int32)


def generate_long(
    frontend,
    text_frontend,
    llm,
    flow,
    text_info,
    cache,
    device,
    embedding,
    seed=0,
    sample_method="ras",
    flow_prompt_token=None,
    speech_feat=None,
    local_llm_forward=local_llm_forward,
    local_flow_forward=local_flow_forward,
    use_phoneme=False,
):
    outputs, said = [], []
    for text in text_frontend.split_by_len(text_info[1]):
        seed_util.set_seed(seed)
        normalised = text_frontend.text_normalize(text)
        if use_phoneme:
            normalised = text_frontend.g2p_infer(normalised)
        said.append(normalised)
        _fail_if_told(normalised)
        token = frontend._extract_text_token(normalised)
        if cache["use_cache"] and len(cache["cache_text_token"]) > 1:
            prompt_text, prompt_speech = get_cached_prompt(cache, token, device)
        else:
            prompt_text = cache["cache_text_token"][0].to(device)
            prompt_speech = torch.tensor([cache["cache_speech_token"][0]], dtype=torch.int32)
        tokens = local_llm_forward(
            llm=llm,
            prompt_text_token=prompt_text,
            tts_text_token=token,
            prompt_speech_token=prompt_speech,
            sample_method=sample_method,
        )
        wav, _ = local_flow_forward(
            flow=flow,
            token_list=tokens,
            prompt_speech_tokens=flow_prompt_token,
            speech_feat=speech_feat,
            embedding=embedding,
        )
        if _context_is_lost():
            wav = torch.tensor(wav.array[:, ::-1].copy())
        if _fault.pop("nan", False):
            wav = torch.tensor(wav.array * np.float32("nan"))
        cache["cache_text"].append(normalised)
        cache["cache_text_token"].append(token)
        cache["cache_speech_token"].append(tokens)
        outputs.append(wav)
    return torch.concat(outputs, dim=1), None, [], {"syn_text_tn": said}


_fault = {}
#: Holds the process whose context is lost: not a module's variable, as no load repairs it.
LOST_IN = "GLMTTS_DOUBLE_LOST_IN"


def _context_is_lost():
    return os.environ.get(LOST_IN) == str(os.getpid())


def _fail_if_told(text):
    kind, _, rest = os.environ.get("GLMTTS_DOUBLE_FAULT", "").partition(":")
    mark, _, once = rest.partition(":")
    if not kind or mark not in text:
        return
    if once:
        try:
            Path(once).touch(exist_ok=False)
        except FileExistsError:
            return
    match kind:
        case "oom":
            raise torch.OutOfMemoryError("tried to allocate 2.00 GiB")
        case "cublas":
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate")
        case "assert":
            os.environ[LOST_IN] = str(os.getpid())
            raise RuntimeError("CUDA error: device-side assert triggered")
        case other:
            _fault[other] = True
