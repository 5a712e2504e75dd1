"""The graph of a converted model, changed for serving: attention over pages, and a head that computes wanted rows only.

The changes are made once, when a file is converted: OpenVINO takes half a second less to compile what is kept.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np

from antiphon.engine.model.openvino.library import (
    OpenVinoError,
    common_transformations,
    openvino,
    paged_attention_transformation,
)

SAMPLED: Final = "sampled"
"""The input that names the rows whose logits are wanted, among the tokens of the batch."""
_ATTENTION: Final = "PagedAttentionExtension"
_SIZES: Final = ("k_head_size", "num_k_heads", "v_head_size", "num_v_heads")
"""What the attention's kernel wants to know of a layer. OpenVINO's files have no place for it, so the model's own notes keep it."""
_NOTES: Final = "paged_attention"


def page(model: Any) -> None:
    """Change a model that the reader made into one that is served.

    Its inputs are ``input_ids`` and ``position_ids`` [tokens], ``past_lens`` [sequences], ``subsequence_begins``
    [sequences + 1], ``block_indices`` [pages of all sequences], ``block_indices_begins`` [sequences + 1],
    ``max_context_len``, ``sampled`` [rows], and ``key_cache.N`` and ``value_cache.N`` of each layer. Its output are the
    logits of the sampled rows.

    Raises:
        OpenVinoError: the graph is of another kind.
    """
    try:
        paged_attention_transformation(model)
    except RuntimeError as error:
        raise OpenVinoError(str(error)) from error
    _sample_before_head(model)
    common_transformations(model)
    _note_sizes(model)


def read_paged(core: Any, path: Path) -> Any:
    """Return the model of an ``openvino_model.xml`` that ``page`` made and ``save_model`` wrote.

    Raises:
        OpenVinoError: the file cannot be read, or is another one.
    """
    try:
        core.get_property("CPU", "FULL_DEVICE_NAME")  # loads the plugin that knows the attention
        model = core.read_model(path)
        sizes = {name: model.get_rt_info([_NOTES, name]).astype(int) for name in _SIZES}
    except RuntimeError as error:
        raise OpenVinoError(str(error)) from error
    for layer in _layers(model):
        notes = layer.get_rt_info()
        for name, size in sizes.items():
            notes[name] = size
    return model


def _layers(model: Any) -> list[Any]:
    return [node for node in model.get_ops() if node.get_type_name() == _ATTENTION]


def _note_sizes(model: Any) -> None:
    found = {tuple(layer.get_rt_info()[name].astype(int) for name in _SIZES) for layer in _layers(model)}
    if len(found) != 1:
        raise OpenVinoError("the layers' heads differ in number or size")
    for name, size in zip(_SIZES, found.pop(), strict=True):
        model.set_rt_info(str(size), [_NOTES, name])


def _sample_before_head(model: Any) -> None:
    """Let the last product, which is the largest, compute the sampled rows only."""
    operators: Any = openvino().opset13
    head = _head(model)
    rows: Any = operators.parameter([-1], np.int64, name=SAMPLED)
    rows.output(0).set_names({SAMPLED})
    gathered = operators.gather(head.input_value(0), rows, operators.constant(np.int64(0)))
    head.input(0).replace_source_output(gathered.output(0))
    model.add_parameters([rows])
    model.validate_nodes_and_infer_types()


def _head(model: Any) -> Any:
    """Return the product that yields the logits, behind which nothing mixes rows."""
    node = model.get_results()[0].input_value(0).get_node()
    while node.get_type_name() != "MatMul":
        if not node.get_input_size() or node.get_type_name() not in {
            "Convert",
            "Reshape",
            "Multiply",
            "Divide",
            "Tanh",
        }:
            raise OpenVinoError(f"the graph ends in {node.get_type_name()}, not in a product that yields logits")
        node = node.input_value(0).get_node()
    return node
