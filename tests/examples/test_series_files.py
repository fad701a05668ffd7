"""What the examples read from a file of series: names, times and values, and how the times go on."""

import csv
import datetime
import pathlib
import sys

import numpy as np
import pytest

from tests.cases import numpy_alone

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "examples"))

import series_files
import time_columns

pytestmark = numpy_alone

VALUES = [round(float(np.sin(t / 3)), 3) for t in range(50)]
DAYS = [datetime.date(2024, 1, 1) + datetime.timedelta(t) for t in range(60)]


def write(path, *rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def forecast(path, file, steps):
    """The rows of the CSV file of a forecast that counts 1.5, 2.5, ... for every feature."""
    values = np.repeat(np.arange(steps)[:, None] + 1.5, len(file.features), axis=1)
    said = series_files.write_forecast(path, file, [values] * len(file.series))
    with path.open(newline="") as written:
        return list(csv.reader(written)), said


# --- The header


def test_without_a_header_the_first_row_is_data(tmp_path):
    rows = [[value, 10 + t] for t, value in enumerate(VALUES)]
    file = series_files.read_series(write(tmp_path / "a.csv", *rows), time="none")
    assert file.features == ["column 1", "column 2"]
    np.testing.assert_array_equal(file.series[0], np.array(rows, "float32"))
    assert "The first row holds numbers" in file.notes[0]
    assert "--header yes" in file.notes[0]


@pytest.mark.parametrize("first", ["2024-01-01", "berlin"])
def test_without_a_header_beside_text(tmp_path, first):
    rows = [[first, value] for value in VALUES]
    file = series_files.read_series(write(tmp_path / "a.csv", *rows))
    assert len(file.series[0]) == len(VALUES)


def test_the_user_decides_about_the_header(tmp_path):
    path = write(tmp_path / "a.csv", [2001, 2002], *[[value, -value] for value in VALUES])
    guessed, yes, no = (series_files.read_series(path, header=header) for header in ("guess", "yes", "no"))
    assert [len(file.series[0]) for file in (guessed, yes, no)] == [51, 50, 51]
    assert yes.features == ["2001", "2002"]
    assert len(guessed.notes) == len(yes.notes) + 1 == len(no.notes) + 1


def test_a_header_with_a_number_is_noted(tmp_path):
    path = write(tmp_path / "a.csv", ["sales", 2002], *[[value, -value] for value in VALUES])
    file = series_files.read_series(path)
    assert file.features == ["sales", "2002"]
    assert "(2002)" in file.notes[0]
    assert "--header no" in file.notes[0]


# --- The time


def epoch(t):
    return 1_700_000_000 + 3600 * t


# Cells of 50 rows, and of the two that follow.
TIMES = {
    "iso": ([str(day) for day in DAYS], ["2024-02-20", "2024-02-21"]),
    "digits": ([day.strftime("%Y%m%d") for day in DAYS], ["20240220", "20240221"]),
    "german": ([day.strftime("%d.%m.%Y") for day in DAYS], ["20.02.2024", "21.02.2024"]),
    "american": ([day.strftime("%m/%d/%Y") for day in DAYS], ["02/20/2024", "02/21/2024"]),
    "british": ([day.strftime("%d/%m/%Y") for day in DAYS], ["20/02/2024", "21/02/2024"]),
    "months": ([f"{2000 + m // 12}-{m % 12 + 1:02}" for m in range(50)], ["2004-03", "2004-04"]),
    "year and month": ([f"{2000 + m // 12}{m % 12 + 1:02}" for m in range(50)], ["200403", "200404"]),
    "first of month": ([f"{2000 + m // 12}-{m % 12 + 1:02}-01" for m in range(50)], ["2004-03-01", "2004-04-01"]),
    "last of month": (
        [str(np.datetime64("2000-01") + m + 1 - np.timedelta64(1, "D")) for m in range(50)],
        ["2004-03-31", "2004-04-30"],
    ),
    "working days": ([str(np.busday_offset("2024-01-01", t)) for t in range(50)], ["2024-03-11", "2024-03-12"]),
    "hours": (
        [f"2024-01-{1 + t // 24:02} {t % 24:02}:00" for t in range(50)],
        ["2024-01-03 02:00", "2024-01-03 03:00"],
    ),
    "time zone": ([f"2024-01-01T00:{t:02}:00Z" for t in range(50)], ["2024-01-01T00:50:00Z", "2024-01-01T00:51:00Z"]),
    "offset": (
        [f"2024-01-01 00:{t:02}:00+02:00" for t in range(50)],
        ["2024-01-01 00:50:00+02:00", "2024-01-01 00:51:00+02:00"],
    ),
    "years": ([1900 + t for t in range(50)], ["1950", "1951"]),
    "epoch": ([epoch(t) for t in range(50)], [str(epoch(50)), str(epoch(51))]),
    "milliseconds": ([1000 * epoch(t) for t in range(50)], [str(1000 * epoch(50)), str(1000 * epoch(51))]),
    "tenths": ([f"{t / 10:.1f}" for t in range(50)], ["5", "5.1"]),
}


@pytest.mark.parametrize("name", ["", "date", "ds", "when"])
@pytest.mark.parametrize(("cells", "following"), TIMES.values(), ids=list(TIMES))
def test_a_column_of_times_is_no_series_and_goes_on(tmp_path, name, cells, following):
    rows = list(zip(cells, VALUES, strict=False))
    file = series_files.read_series(write(tmp_path / "a.csv", [name, "sales"], *rows))
    assert file.features == ["sales"]
    np.testing.assert_array_equal(file.series[0][:, 0], np.array(VALUES, "float32"))
    note = next(note for note in file.notes if "time" in note)
    assert (name or "column 1") in note
    assert "--time" in note
    rows, said = forecast(tmp_path / "b.csv", file, 2)
    assert rows == [[name or "column 1", "sales"], [following[0], "1.5"], [following[1], "2.5"]]
    assert said.endswith("is continued")


def test_newest_first(tmp_path):
    rows = list(zip(map(str, DAYS), VALUES, strict=False))[::-1]
    file = series_files.read_series(write(tmp_path / "a.csv", ["date", "sales"], *rows))
    np.testing.assert_array_equal(file.series[0][:, 0], np.array(VALUES, "float32"))
    assert forecast(tmp_path / "b.csv", file, 1)[0][1] == ["2024-02-20", "1.5"]
    assert any("from the last to the first" in note for note in file.notes)


def test_rows_out_of_order(tmp_path):
    rows = list(zip(map(str, DAYS), VALUES, strict=False))
    rows[3], rows[4] = rows[4], rows[3]
    with pytest.raises(ValueError, match="not in the order of column 'date'"):
        series_files.read_series(write(tmp_path / "a.csv", ["date", "sales"], *rows))


@pytest.mark.parametrize(
    "cells",
    [
        ["2024-01-01"] * 50,
        [str(DAYS[0] + datetime.timedelta(t * t)) for t in range(50)],
        [f"{9950 + t}-01-01" for t in range(50)],
    ],
    ids=["one date", "uneven", "to the year 9999"],
)
def test_times_that_cannot_go_on_are_counted(tmp_path, cells):
    file = series_files.read_series(write(tmp_path / "a.csv", ["date", "x"], *zip(cells, VALUES, strict=True)))
    rows, said = forecast(tmp_path / "b.csv", file, 2)
    assert rows == [["step", "x"], ["51", "1.5"], ["52", "2.5"]]
    assert "date cannot be continued" in said


def test_numbers_that_are_no_times_stay_series(tmp_path):
    """Of one size, falling and rising, rising unevenly, repeating like the month of a year."""
    columns = {
        "constant": [20240101] * 50,
        "wave": VALUES,
        "square": [t * t for t in range(50)],
        "month": [t % 12 + 1 for t in range(50)],
    }
    file = series_files.read_series(write(tmp_path / "a.csv", list(columns), *zip(*columns.values(), strict=True)))
    assert file.features == list(columns)
    assert file.time is None
    assert file.notes == ("Taken for series: constant, wave, square, month.",)


def test_the_only_number_is_the_series(tmp_path):
    """It grows evenly, as a time does."""
    file = series_files.read_series(write(tmp_path / "a.csv", ["date", "x"], *[[str(DAYS[t]), t] for t in range(50)]))
    assert file.features == ["x"]
    assert file.time.name == "date"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "must have a header row and rows of numbers"),
        (b"a,b\n", "must have a header row and rows of numbers"),
        (b"a;b\n" + b"1;2\n" * 50, "must have commas between its cells"),
        (b"a,b\n" + b"x,y\n" * 50, "has no numeric column to forecast"),
        (b"year\n1900\n1901\n", "has no numeric column to forecast. The time of each row: year"),
        (b"a,b\n1,2\n3\n", "row 3 has 1 cells, the first row 2"),
        (b"a,a\n1,2\n", "has two columns of one name"),
        (b"d\xe4y,b\n1,2\n", "is no CSV file in UTF-8"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, content, words):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        series_files.read_series(tmp_path / "a.csv")


def test_the_user_decides_about_the_time(tmp_path):
    rows = [[t, 100 + 2 * t, value] for t, value in enumerate(VALUES)]
    path = write(tmp_path / "a.csv", ["index", "mileage", "x"], *rows)
    guessed, none, mileage = (series_files.read_series(path, time=time) for time in (None, "none", "mileage"))
    assert guessed.features == ["x"]
    assert guessed.time.name == "index"
    assert "index, mileage" in guessed.notes[1]
    assert none.features == ["index", "mileage", "x"]
    assert mileage.features == ["index", "x"]
    assert forecast(tmp_path / "b.csv", mileage, 1)[0] == [["mileage", "index", "x"], ["200", "1.5", "1.5"]]
    with pytest.raises(ValueError, match=r"no column .when. for --time\. It has index, mileage, x"):
        series_files.read_series(path, time="when")
    with pytest.raises(ValueError, match="column 'x' cannot be the time"):
        series_files.read_series(path, time="x")


@pytest.mark.parametrize("step", [1, 7, -1])
def test_dates_with_gaps(step):
    """A few missing days change nothing."""
    days = [datetime.datetime(2024, 1, 1) + datetime.timedelta(step * t) for t in range(50) if t not in (20, 31)]
    assert time_columns.next_times(days, 2) == [days[-1] + datetime.timedelta(step * k) for k in (1, 2)]


# --- Several series


def test_each_series_goes_on_from_its_own_end(tmp_path):
    rows = [[f"s{k}", str(DAYS[t]), VALUES[t] + k] for t in range(12) for k in range(3) if t < 9 + k]
    file = series_files.read_series(write(tmp_path / "a.csv", ["ID", "date", "x"], *rows))
    rows, _ = forecast(tmp_path / "b.csv", file, 2)
    assert rows[0] == ["ID", "date", "x"]
    assert [row[:2] for row in rows[1:]] == [[f"s{k}", str(DAYS[9 + k + s])] for k in range(3) for s in range(2)]


def test_series_of_an_npz_file_are_numbered(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 5, 2)), lengths=[5, 3])
    rows, _ = forecast(tmp_path / "b.csv", series_files.read_series(tmp_path / "a.npz"), 1)
    assert rows == [["series", "step", "feature 1", "feature 2"], ["1", "6", "1.5", "1.5"], ["2", "4", "1.5", "1.5"]]


# --- Quick runs


@pytest.mark.parametrize(("count", "steps"), [(1, 20_000), (500, 700)])
def test_a_quick_run_reads_a_part_of_a_large_file(tmp_path, count, steps):
    file = series_files.SeriesFile(["x"], [np.full((steps, 1), k, "float32") for k in range(count)])
    part = series_files.quick_part(file)
    assert sum(map(len, part.series)) <= series_files.QUICK_SERIES * series_files.QUICK_STEPS
    assert "A quick run" in part.notes[-1]
    pieces = series_files.split(part, tmp_path, seed=0, quick=True)
    assert all(0 < len(some) <= series_files.QUICK_PIECES for some in pieces)
    assert max(len(piece) for some in pieces for piece in some) <= series_files.QUICK_WINDOW


def test_a_quick_run_reads_all_of_a_small_file():
    file = series_files.SeriesFile(["x"], [np.zeros((30, 1), "float32")] * 12)
    assert series_files.quick_part(file) is file


def test_a_quick_run_goes_on_from_the_end_of_the_file(tmp_path):
    rows = [[epoch(t), t % 7] for t in range(2000)]
    file = series_files.quick_part(series_files.read_series(write(tmp_path / "a.csv", ["time", "x"], *rows)))
    assert len(file.series[0]) == series_files.QUICK_STEPS
    assert forecast(tmp_path / "b.csv", file, 1)[0][1] == [str(epoch(2000)), "1.5"]
