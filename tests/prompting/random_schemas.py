"""Schemas of any kind: sensible, odd and wrong ones."""

from typing import Any

from hypothesis import strategies as st

leaves = st.one_of(
    st.fixed_dictionaries({"type": st.sampled_from(["string", "integer", "number", "boolean", "null"])}),
    st.fixed_dictionaries({"type": st.just("string"), "minLength": st.integers(0, 9), "maxLength": st.integers(0, 9)}),
    st.fixed_dictionaries({"type": st.just("integer"), "minimum": st.integers(), "maximum": st.integers()}),
    st.fixed_dictionaries({"type": st.just("number"), "multipleOf": st.floats(0, 9)}),
    st.fixed_dictionaries(
        {"type": st.just("string"), "pattern": st.sampled_from(["^a+$", "[0-9]{2,}", "(", "^(?!x)"])}
    ),
    st.fixed_dictionaries(
        {"type": st.just("string"), "format": st.sampled_from(["date", "uuid", "email", "nonsense"])}
    ),
    st.fixed_dictionaries({"enum": st.lists(st.none() | st.booleans() | st.integers() | st.text(), max_size=4)}),
    st.fixed_dictionaries({"const": st.text() | st.floats(allow_nan=False)}),
    st.sampled_from([{}, {"$ref": "#"}, {"$ref": "#/$defs/x"}, {"not": {}}, {"type": ["string", "null"]}]),
)


def compound(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    keys = st.sampled_from(["a", "b", "city", "é", 'q"', "</arg_value>", ""])
    return st.one_of(
        st.fixed_dictionaries(
            {"type": st.just("object"), "properties": st.dictionaries(keys, inner, max_size=4)},
            optional={
                "required": st.lists(keys, max_size=3, unique=True),
                "additionalProperties": st.booleans() | inner,
                "patternProperties": st.dictionaries(st.sampled_from(["^x", "["]), inner, max_size=1),
            },
        ),
        st.fixed_dictionaries(
            {"type": st.just("array")},
            optional={"items": inner, "minItems": st.integers(0, 4), "maxItems": st.integers(0, 4)},
        ),
        st.fixed_dictionaries({"anyOf": st.lists(inner, max_size=3)}),
        st.fixed_dictionaries({"allOf": st.lists(inner, max_size=3)}),
        st.fixed_dictionaries({"oneOf": st.lists(inner, max_size=3)}),
    )


schemas = st.recursive(leaves, compound, max_leaves=8)
