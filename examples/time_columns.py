"""Finds the column of a CSV file that holds the time of each row, and continues it, with NumPy alone.

A time is a date in one of the formats below, or a number that grows from row to row: a year, a counter, seconds since
1970. Dates that are written as numbers, such as 20240131, are read as dates.
"""

import calendar
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

NAMES = {"date", "datetime", "date_time", "time", "timestamp", "ds", "index", "step", "t", "year", "unnamed: 0"}
DAYS = ["%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y"]
TIMES = ["%H:%M:%S", "%H:%M", "%H:%M:%S.%f", "%H:%M:%SZ", "%H:%M:%S%z"]
FORMATS = [*DAYS, *(f"{day}{gap}{time}" for day in DAYS for gap in " T" for time in TIMES), "%Y-%m", "%Y%m%d", "%Y%m"]
DIGITS = {"%Y%m%d": 8, "%Y%m": 6}

# The part of the steps that must be alike for a time to be continued; the others may be gaps and holidays.
REGULAR = 0.9


class Clock(NamedTuple):
    """How the cells of a column are read as times, and how times are written as cells."""

    read: Callable[[str], Any]
    write: Callable[[Any], str]


def number_text(value: float) -> str:
    return str(round(value)) if value == round(value) else f"{value:.12g}"


NUMBERS = Clock(float, number_text)


def find_clock(columns: Sequence[Sequence[str]]) -> Clock | None:
    """Returns how to read a column, given as its cells of each series, or None where its cells are no times.

    Where several formats fit, as for 03/04/2024, it is the one in which the steps are regular.
    """
    clocks = [clock for form in FORMATS if (clock := date_clock(form, columns))]
    if readable(NUMBERS, columns):
        clocks.append(NUMBERS)

    def fit(clock: Clock) -> int:
        times = [list(map(clock.read, cells)) for cells in columns]
        return all(map(direction, times)) + all(next_times(row, 1) is not None for row in times)

    return max(clocks, key=fit) if len(clocks) > 1 else next(iter(clocks), None)


def date_clock(form: str, columns: Sequence[Sequence[str]]) -> Clock | None:
    """Returns the clock of a format of dates, or None where a cell is in another one."""

    def read(cell: str) -> datetime:
        if len(cell) != DIGITS.get(form, len(cell)):
            raise ValueError(f"{cell} has another number of digits than {form}")
        return datetime.strptime(cell, form)

    colon = columns[0][0][-3:-2]  # of a time zone such as +02:00, where strftime writes +0200

    def write(time: datetime) -> str:
        text = time.strftime(form)
        return f"{text[:-2]}:{text[-2:]}" if form.endswith("%z") and colon == ":" else text

    clock = Clock(read, write)
    first_and_last = [[cells[0], cells[-1]] for cells in columns]
    if not (readable(clock, first_and_last) and readable(clock, columns)):
        return None
    # A number of six or eight digits need not be a date; a year far from ours says that it is none.
    if form in DIGITS and not all(1700 <= int(cell[:4]) <= 2300 for cells in columns for cell in cells):
        return None
    return clock


def readable(clock: Clock, columns: Sequence[Sequence[str]]) -> bool:
    try:
        for cells in columns:
            for cell in cells:
                clock.read(cell)
    except ValueError:
        return False
    return True


def direction(times: Sequence[Any]) -> int:
    """Returns 1 for times that grow from row to row, -1 for times that fall, and 0 for any others."""
    pairs = list(pairwise(times))
    return int(all(a < b for a, b in pairs)) - int(all(a > b for a, b in pairs))


def evenly_spaced(times: Sequence[Any]) -> bool:
    """Returns whether numbers have one step from each row to the next, which is not 0."""
    steps = np.diff(times)
    return bool(len(steps) and steps[0] and np.allclose(steps, steps[0], rtol=1e-6, atol=0))


def next_times(times: Sequence[Any], count: int) -> list[Any] | None:
    """Returns the times that follow, or None where the steps are not regular."""
    if len(times) < 2:
        return None
    if isinstance(times[0], float):
        steps = np.diff(times)
        step = float(np.median(steps))
        alike = np.isclose(steps, step, rtol=1e-6, atol=0).mean()
        return [times[-1] + step * k for k in range(1, count + 1)] if step and alike >= REGULAR else None
    return next_dates(times, count)


def next_dates(dates: Sequence[datetime], count: int) -> list[datetime] | None:
    """Continues dates by the same time, the same number of months, or working days."""
    last, pairs = dates[-1], list(pairwise(dates))

    step, often = Counter(b - a for a, b in pairs).most_common(1)[0]
    if step and often >= REGULAR * len(pairs):
        return [last + step * k for k in range(1, count + 1)]

    # The day of the month is kept, or the month's last one where it has no such day.
    day = max(date.day for date in dates)
    months, often = Counter(month_number(b) - month_number(a) for a, b in pairs).most_common(1)[0]
    same_day = all(in_month(date, month_number(date), day) == date for date in dates)
    if months and same_day and often >= REGULAR * len(pairs):
        return [in_month(last, month_number(last) + months * k, day) for k in range(1, count + 1)]

    if sum(next_working_day(a) == b for a, b in pairs) >= REGULAR * len(pairs):
        following = [next_working_day(last)]
        while len(following) < count:
            following.append(next_working_day(following[-1]))
        return following
    return None


def month_number(date: datetime) -> int:
    return 12 * date.year + date.month - 1


def in_month(date: datetime, number: int, day: int) -> datetime:
    """Returns a date moved to another month and day."""
    year, month = divmod(number, 12)
    return date.replace(year=year, month=month + 1, day=min(day, calendar.monthrange(year, month + 1)[1]))


def next_working_day(date: datetime) -> datetime:
    return date + timedelta(days={4: 3, 5: 2}.get(date.weekday(), 1))
