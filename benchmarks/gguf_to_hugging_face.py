"""Unpacks a GGUF file into a Hugging Face folder of bf16 weights, which is what vLLM serves.

``python gguf_to_hugging_face.py FILE FOLDER``, run by the interpreter that has vLLM, with ``gguf`` and ``accelerate`` next
to its ``transformers``. Weights are those that llama.cpp computes with, rounded to bf16 as in Antiphon's own copy;
tokenizer and chat template come from the file.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

# Neither is a dependency of this project, so type checkers cannot find them here.
torch: Any = import_module("torch")
transformers: Any = import_module("transformers")


def main(file: Path, folder: Path) -> None:
    """Write the folder under a temporary name; rename it when it is complete."""
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
