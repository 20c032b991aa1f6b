"""Unusual spectra: scores with reasons, a list for follow-up, and its way to TOPCAT."""

from __future__ import annotations

from playground import database, options

from specdb.anomaly import anomaly_list, run_anomalies
from specdb.export import save_rows


def main(arguments: list[str] | None = None) -> None:
    """Run the example."""
    parser = options(__doc__)
    parser.add_argument("--top", type=int, default=10)
    parser.add_argument("--send", action="store_true", help="send the list to a running TOPCAT")
    given = parser.parse_args(arguments)
    with database(given.db) as (db, _):
        # Every score is calibrated against S/N: p_value is the share of ordinary stars that look as strange by chance.
        done = run_anomalies(db, "lamost_lrs")
        found = anomaly_list(db, "lamost_lrs", given.top)
        print(f"{done.rows} spectra scored by {', '.join(done.used)}")
        for row in found:
            print(f"{row['rank']:3d}  {row['spectrum_id']}  p = {row['p_value']:.1e}  {row['reason']}")

        given.out.mkdir(parents=True, exist_ok=True)
        save_rows(found, given.out / "unusual.vot")
        print(given.out / "unusual.vot")
        if given.send:
            from specdb.export.samp import SampLink

            with SampLink() as link:
                print("sent to", ", ".join(link.send(found, "unusual spectra", "topcat")))


if __name__ == "__main__":
    main()
