"""From speech tokens to a wave: a tone for each, with noise of the global generator."""

import numpy as np
import torch


class Token2Wav:
    """Knows one sample rate."""

    def __init__(self, sample_rate):
        self.sample_rate = sample_rate

    def token2wav_with_cache(self, token_bt, prompt_token, prompt_feat, embedding):
        assert prompt_token.shape[1]
        assert prompt_feat.shape[1]
        tokens = np.array(token_bt)
        if tokens.min() < 0 or tokens.max() > 32767:
            raise RuntimeError("CUDA error: device-side assert triggered")
        samples = self.sample_rate // 25
        loudness = 0.2 + 0.1 * np.tanh(float(np.mean(prompt_feat.array)))
        shift = float(embedding.array.sum())
        hertz = np.repeat(120.0 + tokens + shift % 20, samples)
        wave = loudness * np.sin(2 * np.pi * np.cumsum(hertz) / self.sample_rate)
        wave += 0.01 * np.random.standard_normal(wave.size)
        return torch.tensor(wave[None], dtype=torch.float32), None
