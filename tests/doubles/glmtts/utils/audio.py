"""A mel spectrum whose basis is kept under a key without the sample rate."""

import numpy as np
import torch

mel_basis = {}


def mel_spectrogram(samples, sampling_rate, hop_size, fmax=8000):
    if fmax not in mel_basis:
        mel_basis[fmax] = np.linspace(0.1, 1.0, 80, dtype=np.float32) * np.float32(
            sampling_rate / 24000
        )
    frames = samples.array.reshape(-1)
    frames = frames[: len(frames) // hop_size * hop_size].reshape(-1, hop_size)
    loudness = np.sqrt(np.mean(frames**2, axis=1, dtype=np.float64)).astype(np.float32)
    return torch.tensor((mel_basis[fmax][:, None] * loudness[None])[None])
