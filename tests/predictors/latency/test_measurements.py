"""Reading measurement files, and the statistics that judge a fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from predictors.latency.measurements import Latencies, MeasurementsError, read_measurements, signed_errors

HEAD = "i,arrival,prompt_tokens,output_tokens,ttft,e2e,itl_p50,error\n"


def test_rows_with_errors_are_left_out_and_time_starts_at_zero(tmp_path: Path) -> None:
    file = tmp_path / "run.csv"
    file.write_text(HEAD + "0,5.0,10,3,0.1,0.5,0.2,\n1,6.0,10,3,,,,timeout\n2,7.5,20,1,0.2,0.2,nan,\n")
    load = read_measurements(file)
    assert (load.name, len(load)) == ("run", 2)
    assert list(load.arrival) == [0.0, 2.5]
    assert list(load.prompt_tokens) == [10, 20]
    assert np.isnan(load.measured.itl[1])


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "no rows"),
        ("arrival,ttft\n1,2\n", "no column e2e, itl_p50, output_tokens, prompt_tokens"),
        (HEAD + "0,1.0,ten,3,0.1,0.5,0.2,\n", r"run\.csv:2: not a number"),
        (HEAD + "0,1.0,10,3,0.1,0.5,0.2,refused\n", "every row has an error"),
        (HEAD + "0,1.0,10,3,inf,0.5,0.2,\n", r"run\.csv:2: ttft: must be finite and above 0, not inf"),
        (HEAD + "0,1.0,10,0,0.1,0.5,0.2,\n", r"output_tokens: must be finite and above 0, not 0"),
        (HEAD + "0,-1.0,10,3,0.1,0.5,0.2,\n", r"arrival: must be finite and not below 0, not -1\.0"),
    ],
)
def test_unusable_files_say_why(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "run.csv"
    file.write_text(text)
    with pytest.raises(MeasurementsError, match=message):
        read_measurements(file)


def test_an_answer_of_one_token_has_no_inter_token_time(tmp_path: Path) -> None:
    file = tmp_path / "run.csv"
    file.write_text(HEAD + "0,1.0,10,1,0.1,0.1,,\n1,2.0,10,3,0.1,0.5,0.2,\n")
    assert np.isnan(read_measurements(file).measured.itl).tolist() == [True, False]


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(MeasurementsError, match="No such file"):
        read_measurements(tmp_path / "none.csv")


def test_errors_are_signed_and_relative() -> None:
    measured = Latencies(np.array([1.0, 1.0]), np.array([2.0, 4.0]), np.array([0.1, np.nan]))
    simulated = Latencies(np.array([1.1, 1.1]), np.array([1.0, 2.0]), np.array([0.2, np.nan]))
    errors = signed_errors(simulated, measured)
    assert errors["ttft_mean"] == pytest.approx(0.1)
    assert errors["e2e_mean"] == errors["e2e_p50"] == pytest.approx(-0.5)
    assert errors["itl_p99"] == pytest.approx(1.0)
