"""``python -m cli.calibrate``: only measure, where nothing is installed but numpy and httptools.

The folder that it writes is what ``headway calibrate --measurements DIR`` fits, on any machine.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Measure; exit code 2 where the target cannot be."""
    from cli.calibrate.measure import Asked, run
    from predictors.latency.campaign import Limits
    from predictors.latency.measurements import MeasurementsError

    given = _parser().parse_args(arguments)
    limits = Limits(max_num_seqs=given.max_num_seqs, max_num_batched_tokens=given.max_num_batched_tokens)
    asked = Asked(
        given.target,
        given.out,
        given.model,
        given.api_key,
        limits,
        given.minutes,
        given.trace,
        given.rate,
        given.only,
        given.seed,
    )
    try:
        run(asked, _say)
    except MeasurementsError as error:
        _say(f"headway: {error}")
        return 2
    return 0


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cli.calibrate", description="Measure a server, and fit nothing.")
    parser.add_argument("--target", required=True, help="a running server's root, without /v1")
    parser.add_argument("--out", type=Path, default=Path("calibration"), help="folder for the measurements")
    parser.add_argument("--model", help="model to ask for")
    parser.add_argument("--api-key", help="sent as a bearer token")
    parser.add_argument("--minutes", type=float, default=12.0, help="time under load, roughly")
    parser.add_argument("--trace", type=Path, help="Azure CSV or Mooncake JSON lines for the open loads' sizes")
    parser.add_argument(
        "--rate", type=float, action="append", default=[], help="requests/s of the open loads, in order"
    )
    parser.add_argument("--only", action="append", default=[], help="beginning of the names of loads to run")
    parser.add_argument("--max-num-seqs", type=int, help="the server's")
    parser.add_argument("--max-num-batched-tokens", type=int, help="the server's")
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    sys.exit(main())
