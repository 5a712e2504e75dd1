"""Model files of a few hundred bytes, and packages that contain them."""

import base64
import hashlib
import json
import struct
import zipfile
from pathlib import Path

import numpy as np


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def tiny_gguf(architecture: str = "llama", **metadata: int) -> bytes:
    """A GGUF with one f32 tensor of 64 numbers, and integers as further metadata of the architecture."""
    pairs = [text("general.architecture") + struct.pack("<I", 8) + text(architecture)]
    pairs += [text(f"{architecture}.{k}") + struct.pack("<II", 4, v) for k, v in metadata.items()]
    words = struct.pack("<IQ", 8, 2) + text("a") + text("b")
    pairs.append(text("tokenizer.ggml.tokens") + struct.pack("<I", 9) + words)
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(pairs)) + b"".join(pairs)
    head += text("token_embd.weight") + struct.pack("<IQQIQ", 2, 32, 2, 0, 0)
    head += b"\0" * (-len(head) % 32)
    return head + np.arange(64, dtype="<f4").tobytes()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def wheel(folder: Path, package: str, members: dict[str, bytes], version: str = "1.0") -> Path:
    """A wheel that pip accepts."""
    name = package.replace("-", "_")
    info = f"{name}-{version}.dist-info"
    members = members | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}"
        for path, data in members.items()
    ]
    members[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    return path


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing", "hello", "!"]


def tiny_bert() -> dict[str, bytes]:
    """The files of a BERT sentence encoder with one layer, by their names."""
    hidden, inner, rng = 8, 16, np.random.default_rng(7)
    shapes = {
        "embeddings.word_embeddings.weight": (len(WORDS), hidden),
        "embeddings.position_embeddings.weight": (16, hidden),
        "embeddings.token_type_embeddings.weight": (2, hidden),
        "embeddings.LayerNorm.weight": (hidden,),
        "embeddings.LayerNorm.bias": (hidden,),
        "pooler.dense.weight": (hidden, hidden),
    }
    dense = {"attention.self.query": (hidden, hidden), "attention.self.key": (hidden, hidden)}
    dense |= {"attention.self.value": (hidden, hidden), "attention.output.dense": (hidden, hidden)}
    dense |= {"intermediate.dense": (inner, hidden), "output.dense": (hidden, inner)}
    for name, shape in dense.items():
        shapes[f"encoder.layer.0.{name}.weight"] = shape
        shapes[f"encoder.layer.0.{name}.bias"] = (shape[0],)
    for name in ("attention.output.LayerNorm", "output.LayerNorm"):
        shapes[f"encoder.layer.0.{name}.weight"] = (hidden,)
        shapes[f"encoder.layer.0.{name}.bias"] = (hidden,)
    config = {
        "model_type": "bert", "hidden_size": hidden, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": inner, "max_position_embeddings": 16, "layer_norm_eps": 1e-12,
        "vocab_size": len(WORDS), "type_vocab_size": 2, "hidden_act": "gelu",
    }  # fmt: skip
    tokenizer = {f"{n}_token": f"[{n.upper()}]" for n in ("unk", "sep", "pad", "cls", "mask")} | {"do_lower_case": True}
    return {
        "model.safetensors": safetensors({n: rng.normal(size=s).astype("<f4") for n, s in shapes.items()}),
        "config.json": json.dumps(config).encode(),
        "tokenizer_config.json": json.dumps(tokenizer).encode(),
        "vocab.txt": "\n".join([*WORDS, ""]).encode(),
        "1_Pooling/config.json": b'{"pooling_mode_mean_tokens": true}',
    }


def safetensors(tensors: "dict[str, np.ndarray]") -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    body = b""
    for name, data in tensors.items():
        raw = data.tobytes()
        header[name] = {"dtype": "F32", "shape": list(data.shape), "data_offsets": [len(body), len(body) + len(raw)]}
        body += raw
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + body
