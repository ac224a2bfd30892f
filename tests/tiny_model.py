"""Builds a model of a few kilobytes that the real sherpa-onnx speaks with: a tone for each token.

It has the inputs, the output and the metadata of a VITS model whose tokens are characters.
"""

from __future__ import annotations

import string
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tts_workers.engines.sherpa_onnx_model import SherpaOnnxSettings
from tts_workers.testing import SAMPLE_TEXTS

if TYPE_CHECKING:
    from pathlib import Path

RATE_HZ = 24_000
TOKEN_SAMPLES = 1440
SPEAKERS = 3
METADATA = {
    "model_type": "vits",
    "comment": "tones",
    "language": "Chinese, English",
    "sample_rate": str(RATE_HZ),
    "n_speakers": str(SPEAKERS),
    "add_blank": "0",
    "frontend": "characters",
    "use_eos_bos": "0",
    "bos_id": "0",
    "eos_id": "0",
    "blank_id": "0",
    "pad_id": "0",
}
_CHARACTERS = string.ascii_lowercase + "0123456789 ,.:;?!，。？！、'-你好" + SAMPLE_TEXTS["zh"]


def settings(folder: Path, **fields: Any) -> SherpaOnnxSettings:
    """Return settings for the model in a folder."""
    told = {"model": str(folder), "model_type": "vits", "languages": "zh,en"}
    return SherpaOnnxSettings(**told | fields)


def build(folder: Path, *, noisy: bool = True, **metadata: str | None) -> Path:
    """Write the model's files; ``metadata`` changes that of the model, None leaves it out."""
    folder.mkdir(parents=True, exist_ok=True)
    characters = dict.fromkeys(_CHARACTERS)
    tokens = [f"{char} {number}\n" for number, char in enumerate(characters, 1)]
    (folder / "tokens.txt").write_text("".join(tokens), encoding="utf-8")
    model = helper.make_model(
        _graph(noisy), opset_imports=[helper.make_opsetid("", 13)], ir_version=8
    )
    for key, value in (METADATA | metadata).items():
        if value is not None:
            entry = model.metadata_props.add()
            entry.key, entry.value = key, value
    onnx.checker.check_model(model)
    onnx.save(model, folder / "model.onnx")
    return folder


def _graph(noisy: bool) -> onnx.GraphProto:
    node, info = helper.make_node, helper.make_tensor_value_info
    constants = {
        "samples": np.float32(TOKEN_SAMPLES),
        "first": np.int64(0),
        "step": np.int64(1),
        "radians": np.float32(2 * np.pi / RATE_HZ),
        "rows": np.array([0]),
        "columns": np.array([1]),
        "one_row": np.array([1, 1, -1]),
        "scalar": np.array([], np.int64),
        "hz_a_token": np.float32(7),
        "hz_a_speaker": np.float32(20),
        "lowest_hz": np.float32(120),
        "loudness": np.float32(0.3),
        "softly": np.float32(0.02),
    }
    nodes = [
        # how many samples a token takes, and the angle of a wave of 1 Hz at each of them
        node("Mul", ["length_scale", "samples"], ["length"]),
        node("Reshape", ["length", "scalar"], ["length_"]),
        node("Cast", ["length_"], ["count"], to=TensorProto.INT64),
        node("Range", ["first", "count", "step"], ["at"]),
        node("Cast", ["at"], ["at_"], to=TensorProto.FLOAT),
        node("Mul", ["at_", "radians"], ["angle"]),
        node("Unsqueeze", ["angle", "rows"], ["angles"]),
        # the frequency of each token
        node("Cast", ["x"], ["token"], to=TensorProto.FLOAT),
        node("Squeeze", ["token", "rows"], ["token_"]),
        node("Mul", ["token_", "hz_a_token"], ["by_token"]),
        node("Cast", ["sid"], ["speaker"], to=TensorProto.FLOAT),
        node("Mul", ["speaker", "hz_a_speaker"], ["by_speaker"]),
        node("Add", ["by_token", "by_speaker"], ["both"]),
        node("Add", ["both", "lowest_hz"], ["hz"]),
        node("Unsqueeze", ["hz", "columns"], ["frequencies"]),
        # token by token
        node("MatMul", ["frequencies", "angles"], ["phase"]),
        node("Sin", ["phase"], ["tone"]),
        node("Mul", ["tone", "loudness"], ["clear"]),
    ]
    if noisy:
        nodes += [
            node("RandomNormalLike", ["clear"], ["random"]),
            node("Mul", ["random", "noise_scale"], ["scaled"]),
            node("Mul", ["scaled", "softly"], ["noise"]),
            node("Add", ["clear", "noise"], ["spoken"]),
        ]
    nodes.append(node("Reshape", ["spoken" if noisy else "clear", "one_row"], ["y"]))
    scales = ("noise_scale", "length_scale", "noise_scale_w")
    return helper.make_graph(
        nodes,
        "tones",
        [
            info("x", TensorProto.INT64, [1, "tokens"]),
            info("x_length", TensorProto.INT64, [1]),
            *(info(name, TensorProto.FLOAT, [1]) for name in scales),
            info("sid", TensorProto.INT64, [1]),
        ],
        [info("y", TensorProto.FLOAT, [1, 1, "samples"])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
