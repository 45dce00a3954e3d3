"""A judge is asked at the configured host alone, and never at an address that hands out secrets."""

import pytest

from sparring.transport.guard import Address
from sparring.types import UsageError


def refused(url: str, **told) -> str:
    with pytest.raises(UsageError) as error:
        Address(url, **told)
    return str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8000/v1",
        "http://localhost/v1",
        "http://[::1]:8000/v1",
        "https://api.example.org/v1",
        "https://10.0.0.7:8443/v1",
    ],
)
def test_https_anywhere_and_http_on_this_machine_are_in_order(url):
    assert Address(url).named("completions") == f"{url}/completions"


@pytest.mark.parametrize(
    "url", ["http://judge:8000/v1", "http://10.0.0.7/v1", "http://2130706433/v1", "http://0x7f.1"]
)
def test_http_to_another_machine_needs_a_word(url):
    assert "allow_insecure: true" in refused(url)
    assert Address(url, allow_insecure=True).host


@pytest.mark.parametrize("url", ["https://me:hunter2@a.example/v1", "https://hunter2@a.example/v1"])
def test_a_url_holds_no_name_and_no_password_and_the_error_does_not_repeat_it(url):
    told = refused(url)
    assert "api_key_env" in told
    assert "hunter2" not in told


@pytest.mark.parametrize(
    "url",
    ["ftp://a.example", "a.example/v1", "", "http:///v1", "http://a:99999/v1", "http://[::1/v1"],
)
def test_what_is_no_url_is_refused_with_the_name_of_the_setting(url):
    assert refused(url, field="exam.judge.base_url").startswith("exam.judge.base_url: ")


@pytest.mark.parametrize("url", ["https://a.example/v1?key=hunter2", "https://a.example/v1#x"])
def test_a_url_ends_at_its_path(url):
    assert "hunter2" not in refused(url)


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


def test_a_literal_metadata_address_is_refused_before_anything_is_sent():
    assert "no model is served there" in refused("http://169.254.169.254/v1", allow_insecure=True)


def test_a_name_of_this_machine_that_leads_elsewhere_is_refused():
    with pytest.raises(UsageError, match="in the clear"):
        Address("http://localhost/v1").check(["127.0.0.1", "10.0.0.7"])


def test_the_endpoint_is_asked_at_the_address_that_was_checked():
    address = Address("https://judge.example/team/v1/")
    assert address.at("10.0.0.7", "completions") == "https://10.0.0.7:443/team/v1/completions"
    assert address.at("::1", "completions") == "https://[::1]:443/team/v1/completions"
    assert address.authority == "judge.example"
