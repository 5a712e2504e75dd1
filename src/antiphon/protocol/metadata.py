"""``metadata``: what a client says of an object, in its own words."""

from antiphon.protocol.fields import String
from antiphon.protocol.shapes import Mapping, Object

METADATA = Mapping(
    String(max_length=512), max_properties=16, max_name_length=64, called="metadata object", nullable=True
)
update_metadata = Object({"metadata": METADATA}, required=("metadata",))
"""The body of a request that replaces them."""
