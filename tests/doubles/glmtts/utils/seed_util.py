"""Seeds every global generator there is."""

import random

import numpy
import torch


def set_seed(seed):
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)
