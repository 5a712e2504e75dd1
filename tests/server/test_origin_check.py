import pytest

from antiphon.protocol.errors import ApiError
from antiphon.server.request.origin_check import OriginCheck


@pytest.mark.parametrize("host", ["127.0.0.1:8787", "localhost", "LOCALHOST:1", "[::1]:8787", "[::1]", None])
def test_loopback_names_are_answered(host: str | None) -> None:
    """The machine's own names are always right; a client without the header is not a browser."""
    OriginCheck(host="127.0.0.1").check_host(host)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8787", "127.0.0.1.evil.example", "localhost.evil:80"])
def test_a_rebound_name_is_refused(host: str) -> None:
    """A name that only DNS points at this machine gets a 403."""
    with pytest.raises(ApiError) as caught:
        OriginCheck(host="127.0.0.1").check_host(host)
    assert (caught.value.status, caught.value.code) == (403, "host_not_allowed")


def test_allowed_hosts_are_answered() -> None:
    """Names from the settings are accepted, with and without a port."""
    check = OriginCheck(host="127.0.0.1", allowed_hosts=["api.lan", "box:9000"])
    check.check_host("api.lan:8787")
    check.check_host("box:9000")


def test_every_interface_answers_to_every_name() -> None:
    """Bound to 0.0.0.0 the names are unknown, unless the settings list them."""
    OriginCheck(host="0.0.0.0").check_host("anything.lan")
    with pytest.raises(ApiError):
        OriginCheck(host="0.0.0.0", allowed_hosts=["api.lan"]).check_host("anything.lan")


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost:3000", True),
        ("http://127.0.0.1", True),
        ("https://app.example", True),
        ("https://app.example/", True),
        ("https://evil.example", False),
        ("http://localhost.evil.example", False),
        ("null", False),
        ("chrome-extension://localhost", False),
        ("moz-extension://127.0.0.1", False),
        ("file://localhost", False),
        ("ftp://localhost", False),
        ("localhost", False),
        ("http://[", False),
    ],
)
def test_pages_of_other_sites_are_refused(origin: str, allowed: bool) -> None:
    """Only pages of this machine and of the configured origins may call."""
    check = OriginCheck(host="127.0.0.1", cors_origins=["https://app.example"])
    assert check.allows_origin(origin) is allowed
    if not allowed:
        with pytest.raises(ApiError, match="may not call"):
            check.check_origin(origin)
