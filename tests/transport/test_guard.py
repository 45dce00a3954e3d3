"""A client connects only to its URL's host, shows no secret, and does not overload a server."""

import html
import json
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from sparring.transport.client import Client
from sparring.transport.guard import Address, Health, Limits, from_environment, retry_after
from sparring.types import UsageError

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
KEY = "sk-canary/5e7a&\"q+'\\z"


def refused(url: str, **settings) -> str:
    with pytest.raises(UsageError) as error:
        Address(url, **settings)
    return str(error.value)


LOCAL = ("http://127.0.0.1:8000/v1", "http://localhost/v1", "http://[::1]:8000/v1")
TLS = ("https://api.example.org/v1", "https://10.0.0.7:8443/v1")


@pytest.mark.parametrize("url", [*LOCAL, *TLS])
def test_https_anywhere_and_http_on_this_machine_are_in_order(url):
    assert Address(url).named("completions") == f"{url}/completions"


@pytest.mark.parametrize("host", ["judge:8000/v1", "10.0.0.7/v1", "2130706433/v1", "0x7f.1"])
def test_http_to_another_machine_needs_a_permit(host):
    assert "set sampling.allow: true" in refused(f"http://{host}", permit="sampling.allow")
    assert Address(f"http://{host}", allow_insecure=True).host


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        *((f"https://{user}@a.example/v1", "api_key_env") for user in ("me:hunter2", "hunter2")),
        *((f"https://a.example/v1{end}hunter2", "end at its path") for end in ("?key=", "#")),
        *((url, "wanted http") for url in ("ftp://a.example", "a.example/v1", "", "http:///v1")),
        *((url, "not a URL") for url in ("http://me:hunter2@a:99999/v1", "http://[::hunter2/v1")),
    ],
)
def test_another_url_is_refused_by_its_setting_without_the_part_that_may_be_secret(url, reason):
    message = refused(url, field="exam.judge.base_url")
    assert message.startswith("exam.judge.base_url: ")
    assert reason in message
    assert "hunter2" not in message


FORBIDDEN = (
    *("169.254.169.254", "169.254.0.1", "fe80::1", "fd00:ec2::254", "100.100.100.200"),
    *("::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "fe80::1%eth0"),
    *("0.0.0.0", "::", "224.0.0.1", "ff02::1", "168.63.129.16", "192.0.0.192"),
)


@pytest.mark.parametrize("ip", FORBIDDEN)
def test_link_local_metadata_and_multicast_addresses_are_refused_however_they_are_spelt(ip):
    address = Address("https://a.example/v1", allow_insecure=True)
    with pytest.raises(UsageError, match="no model is served there"):
        address.check(["10.0.0.7", ip])
    host = f"[{ip}]" if ":" in ip else ip
    if "%" not in ip:
        assert "no model is served there" in refused(f"https://{host}/v1", allow_insecure=True)


def test_a_name_of_this_machine_that_leads_elsewhere_is_refused():
    with pytest.raises(UsageError, match="in the clear"):
        Address("http://localhost/v1").check(["127.0.0.1", "::ffff:7.7.7.7"])


def test_an_endpoint_has_the_address_that_was_checked_and_the_hosts_name_beside_it():
    address = Address("https://judge.example/team/v1/")
    assert address.at("10.0.0.7", "completions") == "https://10.0.0.7:443/team/v1/completions"
    assert address.at("::1", "completions") == "https://[::1]:443/team/v1/completions"
    assert address.authority == "judge.example"


@pytest.mark.parametrize("value", ["sk-dragon", "sk-dragon\n", "\r\n\t sk-dragon \n\n"])
def test_white_space_around_a_key_is_no_part_of_it(value):
    secret = from_environment("KEY", {"KEY": value}, "judge.server.api_key_env")
    client = Client(Address("https://a.example"), key=SecretStr(value))
    assert secret.get_secret_value() == client.key.get_secret_value() == "sk-dragon"


@pytest.mark.parametrize("value", ["sk-drágon", "sk-\x00dragon", "sk-dragon\nsk-2", "\ufeffsk-d"])
def test_a_secret_that_no_header_carries_is_refused_and_not_shown(value):
    errors = []
    for attempt in (
        lambda: from_environment("KEY", {"KEY": value}, "FIELD"),
        lambda: Client(Address("https://a.example"), key=SecretStr(value)),
        lambda: Client(Address("https://a.example"), proxy=SecretStr(value)),
    ):
        with pytest.raises(UsageError, match="printable ASCII") as error:
            attempt()
        errors.append(str(error.value))
    assert "FIELD: the environment variable KEY holds" in errors[0]
    assert not any("dr" in message for message in errors)


@pytest.mark.parametrize("url", ["hunter2", "ftp://me:hunter2@proxy:1", "http://", "socks5://h/x"])
def test_a_proxy_that_is_no_url_is_refused_and_not_shown(url):
    with pytest.raises(UsageError, match=r"wanted|is not http") as error:
        Client(Address("https://a.example"), proxy=SecretStr(url))
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "environ", "shown"),
    [
        *(("KEY", environ, "KEY") for environ in ({}, {"KEY": ""}, {"KEY": " \n"})),
        ("sk-canary-1", {}, "of that name"),
        ("hf_canary1", {}, "of that name"),
    ],
)
def test_an_empty_variable_is_named_and_a_key_in_the_place_of_a_name_is_not(name, environ, shown):
    with pytest.raises(UsageError, match=f"F: the environment variable {shown} is not set") as e:
        from_environment(name, environ, "F")
    assert "canary" not in str(e.value)
    assert from_environment(None, environ, "F") is None


CLIENT = Client(
    Address("https://a.example"), SecretStr(KEY), SecretStr("http://me:hunter2@proxy.example:1/")
)
ESCAPES = {
    "plain": str,
    "JSON": json.dumps,
    "JSON twice": lambda text: json.dumps(json.dumps(text)),
    "JSON of code points": lambda text: "".join(f"\\u{ord(c):04X}" for c in text),
    "URL": lambda text: quote(text, safe=""),
    "URL twice": lambda text: quote(quote(text, safe=""), safe=""),
    "URL in small letters": lambda text: "".join(f"%{ord(c):02x}" for c in text),
    "HTML": html.escape,
    "HTML of code points": lambda text: "".join(f"&#x{ord(c):X};" for c in text),
    "a Python literal": repr,
    "bytes in hexadecimal": lambda text: "".join(f"\\x{ord(c):02x}" for c in text),
    "a shell": lambda text: "".join(f"\\{c}" for c in text),
    "UTF-16 read as UTF-8": lambda text: text.encode("utf-16-le").decode(),
}


@pytest.mark.parametrize("escape", ESCAPES.values(), ids=ESCAPES)
def test_no_escaped_echo_of_a_secret_is_shown(escape):
    echo = f"who is {escape(KEY)}? by {escape('http://me:hunter2@proxy.example:1/')}"
    redacted = CLIENT.redacted(echo)
    assert "who is" in redacted
    assert not any(part in redacted.replace("\0", "") for part in ("canary", "5e7a", "hunter2"))
    assert redacted.count("[redacted]") == 2


@given(st.integers(0, 400), st.sampled_from(sorted(ESCAPES)))
def test_an_echo_that_the_cut_of_an_error_would_split_shows_no_part_of_it(before, name):
    shown = CLIENT.shown("x" * before + ESCAPES[name](KEY) + "y" * 400)
    assert len(shown) <= 300
    assert set(shown) <= set("xy\"'\\[redacted]\ufffd"), "no s, k, n, digit or % of the key"


@pytest.mark.parametrize("piece", ["\\", "%25", "sk-canary/5e7", "&#00000", "\0"])
def test_a_megabyte_is_redacted_in_no_time(piece):
    began = time.process_time()
    CLIENT.redacted(piece * (1_000_000 // len(piece)))
    assert time.process_time() - began < 2


def health(*pressed: bool, **limits) -> Health:
    """The health of a server after responses that were "too many requests" (True) or not."""
    server = Health(Limits(**limits))
    for response in pressed:
        server.record(failed=False, pressed=response, now=0.0)
    return server


def test_the_pace_halves_when_half_of_the_last_eight_were_too_many_and_grows_by_quarters():
    most = [False] * 4 + [True] * 3
    assert health(*most, concurrency=12).limit == 12
    assert health(*most, True, concurrency=12).limit == 6
    recovering = [*most, True] + [False] * 20
    assert health(*recovering, concurrency=12).limit == 11
    stray = [number % 8 == 0 for number in range(800)]
    assert health(*recovering, *stray, concurrency=12).limit == 12, "one in eight costs nothing"


@given(st.lists(st.booleans()))
def test_the_pace_stays_between_one_and_its_most(responses):
    for end in range(len(responses)):
        assert 1 <= health(*responses[:end], concurrency=7).limit <= 7


def test_a_server_seems_gone_at_the_twentieth_failure_in_a_row_until_a_success():
    server = health(first_pause=1.0)
    for _ in range(2):
        for number, failed in enumerate([True] * 19 + [False] + [True] * 20):
            assert server.gone_since is None
            server.record(failed, pressed=False, now=float(number))
        assert server.gone_since == 39
        server.record(failed=True, pressed=False, now=40.0)
        assert server.gone_since == 39
        assert [server.pause() for _ in range(6)] == [2, 4, 8, 16, 30, 30]
        server.record(failed=False, pressed=False, now=41.0)
        assert server.gone_since is None, "and then pauses begin anew"


def date(**after) -> str:
    return format_datetime(NOW + timedelta(**after), usegmt=True)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        *(("3", 3), (" 17 ", 17), ("7200", 60), ("9" * 5000, 60)),
        *((date(seconds=9), 9), (date(days=9), 60), (date(seconds=-9), 0)),
        *((text, 0) for text in ("Sat, 21 Nov 2026 12:00:05", "-3", "soon", "²", "", None)),
    ],
)
def test_retry_after_is_read_as_seconds_or_a_date_and_capped_at_a_minute(header, seconds):
    assert retry_after(header, NOW) == seconds
