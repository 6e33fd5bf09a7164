"""Support tickets as a company has them: unbalanced teams, empty texts, quotes, emoji, umlauts and
semicolons, and dates over a year."""

import csv
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

TEAMS = {
    "Billing": 30,
    "IT-Störungen": 22,
    "Human Resources": 14,
    "Facilities": 10,
    "Legal & Compliance": 7,
    "Versand": 5,
    "Sales": 4,
    "Security": 3,
    "Travel": 2,
    "Payroll": 1.5,
    "Training": 1,
    "Büroküche": 0.5,
}
"""With how often each comes."""
_WRONG = (
    "does not work",
    "needs to be changed; please help",
    "läßt sich nicht öffnen",
    'says "access denied"',
    "was wrong, again",
    "gehört ersetzt 😡",
)
_THINGS = ("form", "request", "invoice", "printer", "door", "account", "contract", "parcel")
_MINUTES = 365 * 24 * 60


def tickets(number: int, seed: int = 0) -> list[dict[str, str]]:
    """So many rows; two in a hundred have an empty text."""
    random = Random(seed)
    start = datetime(2025, 1, 1)
    rows = []
    for row in range(number):
        (team,) = random.choices(list(TEAMS), TEAMS.values())
        thing, wrong = random.choice(_THINGS), random.choice(_WRONG)
        text = f"Hi, my {team.split()[0].lower()} {thing} {wrong} {random.randint(1, 999)}"
        rows.append(
            {
                "ticket id": f"T-{row:05}",
                "created at": f"{start + timedelta(minutes=random.randrange(_MINUTES))}",
                "Ticket text": random.choice(("", " ")) if random.random() < 0.02 else text,
                "priority": random.choice("123"),
                "channel": random.choice(("mail", "phone")),
                "team": team,
            }
        )
    return rows


def write_tickets(
    path: Path, number: int, *, encoding: str = "utf-8", delimiter: str = ",", seed: int = 0
) -> Path:
    """As a csv file. An encoding without emoji gets a question mark."""
    rows = tickets(number, seed)
    with path.open("w", encoding=encoding, newline="", errors="replace") as file:
        writer = csv.DictWriter(file, rows[0], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path
