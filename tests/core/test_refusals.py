"""What PostgreSQL says of a value tells no value."""

from __future__ import annotations

import pytest
from psycopg import errors

from cdc_bridge.database.sessions import sentence


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ('invalid input syntax for type uuid: "4711"', "invalid input syntax for type uuid"),
        ('value "4711" is out of range for type integer', "value is out of range for type integer"),
        ('invalid input syntax for type json: "{\n"4711', "invalid input syntax for type json"),
        ("date field value out of range: 2000-01-4711", "date field value out of range"),
        ("Wert »4711« ist außerhalb des gültigen Bereichs für Typ integer",
         "Wert ist außerhalb des gültigen Bereichs für Typ integer"),
        ("la valeur « 4711 » est en dehors des limites", "la valeur est en dehors des limites"),
        ("division by zero", "division by zero"),
    ],
)  # fmt: skip
def test_values_are_left_out(said: str, told: str) -> None:
    assert sentence(errors.DataError(said)) == told


def test_what_is_wrong_with_a_pattern_is_told() -> None:
    said = "invalid regular expression: parentheses () not balanced"
    assert sentence(errors.InvalidRegularExpression(said)) == said
