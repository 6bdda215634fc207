"""Personal data is found, in English and Chinese, and numbers that only look like it stay."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatwright.serve.redact import RedactConfig, redact

ON = RedactConfig()


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("Write to ann.lee+shop@mail.example.co.uk.", "Write to [email]."),
        ("请发到zhang_san@qq.com谢谢", "请发到[email]谢谢"),
        ("邮箱：zhang＠example．com", "邮箱：[email]"),
        ("手机13812345678，晚上打", "手机[phone]，晚上打"),
        ("手机：１３８１２３４５６７８", "手机：[phone]"),
        ("+86 138 1234 5678 or 138-1234-5678", "[phone] or [phone]"),
        ("座机 010-62785678", "座机 [phone]"),
        ("Call (212) 555-2368 or +44 20 7946 0958", "Call [phone] or [phone]"),
        ("Ruf an: +49 30 901820", "Ruf an: [phone]"),
        ("card 4111 1111 1111 1111 exp 12/27", "card [card] exp 12/27"),
        ("5555-5555-5555-4444", "[card]"),
        ("银行卡6222021234567890128", "银行卡[card]"),
        ("身份证11010119900307109X", "身份证[id]"),
        ("身份证 110101 19900307 109x。", "身份证 [id]。"),
        ("13812345678@qq.com", "[email]"),
    ],
)
def test_what_is_taken_out(text, safe):
    assert redact(text, ON)[0] == safe


@pytest.mark.parametrize(
    "text",
    [
        "Order 4111111111111112 came",  # no valid check digit
        "单号110101199003071090",  # no valid check digit, and no phone
        "It costs $1,299.00, not 1.299.000 CNY",
        "On 2024-05-06 at 12:30:15, version 1.2.3.4",
        "2024年5月6日12点，第123456号",
        "a @ b, user@localhost, @ann",
        "3.14159265358979",
    ],
)
def test_what_stays(text):
    assert redact(text, ON)[0] == text


def test_counts_kinds_and_the_switch():
    text = "a@b.co c@d.co 13812345678"
    assert redact(text, ON)[1] == {"email": 2, "phone": 1}
    assert redact(text, RedactConfig(on=False)) == (text, {})
    assert redact(text, RedactConfig(kinds=("phone",)))[0] == "a@b.co c@d.co [phone]"


@given(st.text(alphabet="0123456789 -+()@.abX一[]email", max_size=80))
def test_what_is_redacted_stays_so_and_the_rest_is_untouched(text):
    once, counts = redact(text, ON)
    again, more = redact(once, ON)
    if not counts:
        assert once == text
    assert not more or again != once


@pytest.mark.parametrize("text", ["a" * 200_000, "a@" * 50_000, "a.b" * 50_000 + "@", "x@" + "a." * 50_000])
def test_long_texts_take_no_long(text):
    began = time.perf_counter()
    redact(text, ON)
    assert time.perf_counter() - began < 2


@pytest.mark.parametrize("text", ["1 " * 50_000, "123-" * 25_000, "+" * 100_000, "12345678 " * 10_000])
def test_long_numbers_take_no_long(text):
    began = time.perf_counter()
    redact(text, ON)
    assert time.perf_counter() - began < 10
