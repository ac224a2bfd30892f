"""The language model: speech tokens that the whole prompt decides, and the global seed."""

import random

import torch


class GLMTTS:
    """Says each text token for a while."""

    ats, ate = 1000, 1000 + 32767

    def __init__(self, weights):
        self.weights = weights

    def inference(self, text, prompt_text, prompt_speech_token, stray):
        told = sum(prompt_text.tolist()[0]) + sum(prompt_speech_token.tolist()[0]) + self.weights
        tokens = []
        for word in text.tolist()[0]:
            for _ in range(5 if word < 60000 else 10):
                pitch = (told + word + random.randrange(40) + torch.randint(40)) % 160
                tokens.append(pitch)
                told += pitch
        return [*tokens, -1000, 40000] if stray else tokens
