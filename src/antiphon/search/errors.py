"""What goes wrong with an index or a document."""

from antiphon.errors import AntiphonError


class SearchError(AntiphonError):
    """An index file, or a file that is to be read into one, cannot be used."""
