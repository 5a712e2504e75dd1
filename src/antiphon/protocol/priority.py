"""Which requests go first."""

from typing import Literal

Priority = Literal["interactive", "batch"]
"""An engine computes nothing for a batch while interactive requests can be computed."""
