"""As much of torch as the checkout and the engine share: tensors over numpy, seeds, a device."""

import contextlib
import random

import numpy as np

int32, int64, long, float32 = np.int32, np.int64, np.int64, np.float32
_generator = random.Random(0)


class OutOfMemoryError(RuntimeError):
    """Raised by name where torch raises its own."""


class device:  # noqa: N801 - as in torch
    """The name of a device."""

    def __init__(self, name):
        self.type = name

    def __str__(self):
        return self.type


class Tensor:
    """An array with a tensor's manners."""

    def __init__(self, array):
        self.array = np.asarray(array)

    @property
    def shape(self):
        return self.array.shape

    @property
    def ndim(self):
        return self.array.ndim

    def to(self, *_):
        return self

    def cpu(self):
        return self

    def detach(self):
        return self

    def squeeze(self):
        return Tensor(self.array.squeeze())

    def tolist(self):
        return self.array.tolist()

    def numpy(self):
        return self.array


class cuda:  # noqa: N801 - as in torch
    """A machine without a GPU."""

    OutOfMemoryError = OutOfMemoryError
    emptied = 0

    @staticmethod
    def is_available():
        return False

    @staticmethod
    def synchronize():
        raise RuntimeError("no CUDA GPUs are available")

    @classmethod
    def empty_cache(cls):
        cls.emptied += 1

    @staticmethod
    def manual_seed(seed):
        pass


def tensor(values, dtype=None):
    return Tensor(np.array(values, dtype=dtype))


def from_numpy(array):
    return Tensor(array)


def concat(tensors, dim):
    return Tensor(np.concatenate([one.array for one in tensors], axis=dim))


def manual_seed(seed):
    _generator.seed(seed)


def randint(below):
    """Return a number of the global generator, as sampling does."""
    return _generator.randrange(below)


@contextlib.contextmanager
def no_grad():
    yield
