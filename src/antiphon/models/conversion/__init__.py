"""Writing weights of other formats as GGUF, the format the engine runs."""

from antiphon.models.conversion.bert import COMPANIONS, convert_bert

__all__ = ["COMPANIONS", "convert_bert"]
