"""Imports what keeps a state of its own before pytest is run inside pytest, which forgets the modules that it imports.

Otherwise the same module would be there twice: one that an earlier test holds, and one that is imported next.
"""

import antiphon.testing.endpoint
import antiphon.testing.tape
import antiphon.toolkit.bulk
import antiphon.toolkit.doctor
import antiphon.toolkit.evaluation.evaluation
import antiphon.toolkit.index  # noqa: F401 - all of these are imported for their effect
