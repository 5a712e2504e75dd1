"""How a request of a client's batch is charged: at a part of the price, in a row that its batch commits."""

from antiphon.accounts.usage import UsageRow


class BatchBilling:
    """Collects the usage rows of one request, in place of the ledger.

    The batch commits the row together with the request's result, so that one cannot be there without the other. Rows of
    attempts that are made again are dropped. ``price_factor``: 0.5 is half the price.
    """

    __slots__ = ("price_factor", "rows")

    def __init__(self, price_factor: float) -> None:
        self.price_factor = price_factor
        self.rows: list[UsageRow] = []

    def append(self, row: UsageRow) -> None:
        """Take a row; returns at once."""
        self.rows.append(row)
