import pytest

from models.money import parse_amount, show


def test_an_amount_is_read_to_the_micro_unit():
    assert parse_amount("20.50 CNY") == (20_500_000, "CNY")
    assert parse_amount("0.299768") == (299_768, None)
    assert parse_amount("1_000 usd") == (1_000_000_000, "USD")


@pytest.mark.parametrize("text", ["", "-1", "1e3", "ten", "1.1234567", "5 EUR", "9" * 20])
def test_what_is_not_an_amount_is_refused_with_the_way_out(text):
    with pytest.raises(ValueError, match=r"write|finer|billed"):
        parse_amount(text)


def test_money_is_shown_whole_and_unrounded():
    assert show(1_234_500_000, "CNY") == "1,234.50 CNY"
    assert show(22_483, "CNY") == "0.022483 CNY"
    assert show(-1, "USD") == "-0.000001 USD"
