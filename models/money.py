"""Money as integers: micro-units (a millionth) of a currency. No float ever holds an amount."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

MICROS = 1_000_000
CURRENCIES = ("CNY", "USD")

_AMOUNT = re.compile(r"^\s*(?P<number>\d[\d_]*(?:\.\d+)?)\s*(?P<currency>[A-Za-z]{3})?\s*$")


def parse_amount(text: str) -> tuple[int, str | None]:
    """Read `20`, `20.50`, `20.50 CNY` into (micros, currency or None).

    Raises ValueError, in words fit to print, on anything else: negative, an unknown currency, more than six decimals.
    """
    match = _AMOUNT.match(text)
    if not match:
        raise ValueError(f"{text!r} is not an amount of money; write 20 or 20.50 CNY")
    try:
        micros = Decimal(match["number"].replace("_", "")) * MICROS
    except InvalidOperation as error:
        raise ValueError(f"{text!r} is not an amount of money; write 20 or 20.50 CNY") from error
    if micros != micros.to_integral_value():
        raise ValueError(f"{text!r} is finer than a millionth; write at most six decimals")
    if micros > 10**15:
        raise ValueError(f"{text!r} is more than a thousand million; write a smaller amount")
    currency = match["currency"].upper() if match["currency"] else None
    if currency is not None and currency not in CURRENCIES:
        raise ValueError(f"{currency} is not billed by the provider; write {' or '.join(CURRENCIES)}")
    return int(micros), currency


def show(micros: int, currency: str) -> str:
    """`1234500000, CNY` -> `1,234.50 CNY`; keeps at least two decimals and never rounds."""
    sign = "-" if micros < 0 else ""
    whole, part = divmod(abs(micros), MICROS)
    decimals = f"{part:06d}".rstrip("0").ljust(2, "0")
    return f"{sign}{whole:,}.{decimals} {currency}"
