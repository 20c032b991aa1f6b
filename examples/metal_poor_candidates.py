"""Metal-poor candidates with SQL: labels for some stars, a head for all, a condition, a map."""

from __future__ import annotations

import pyarrow.parquet as pq
from playground import database, options

from specdb.export import save_rows
from specdb.heads import predict_survey
from specdb.plots.sky import plot_sky, sky_map
from specdb.plots.style import save_figure

CANDIDATES = """
SELECT p.spectrum_id, s.ra, s.dec, s.snr_g, p.feh, p.feh_sigma, p.teff, p.logg
FROM predictions p JOIN lamost_lrs s USING (spectrum_id)
WHERE p.head = 'atm' AND p.flags & 2 = 0 AND p.feh + 2 * p.feh_sigma < {limit}
ORDER BY p.feh
"""


def main(arguments: list[str] | None = None) -> None:
    """Run the example."""
    parser = options(__doc__)
    parser.add_argument("--catalogue", default="lasp", help="catalogue of the database that has teff, logg and feh")
    parser.add_argument("--limit", type=float, default=-0.7, help="[Fe/H] that candidates lie below by two sigma")
    given = parser.parse_args(arguments)
    with database(given.db) as (db, truth):
        if truth is None:
            labels = db.sql(f"SELECT spectrum_id, teff, logg, feh FROM {given.catalogue}").to_arrow()
        else:
            labels = pq.read_table(truth, columns=["spectrum_id", "teff", "logg", "feh"]).slice(0, 200)

        # Two hundred labelled stars teach a head; it then gives every star labels with uncertainties.
        head = db.train_head("atm", labels)
        for name, figures in head.card.metrics["left_out"].items():
            print(f"{name}: scatter {figures['sigma']:.3g}, 68 % interval holds {figures['coverage_68']:.0%}")
        report = predict_survey(db.store, head)
        print(f"{report.predicted + report.kept} spectra predicted")

        candidates = db.sql(CANDIDATES.format(limit=given.limit))
        print(f"{len(candidates)} candidates with [Fe/H] < {given.limit} by two sigma")
        given.out.mkdir(parents=True, exist_ok=True)
        save_rows(candidates, given.out / "metal_poor.ecsv", {"query": "metal-poor candidates"})
        stars = candidates.to_arrow()
        if len(stars):
            sky = sky_map(stars["ra"].to_numpy(), stars["dec"].to_numpy(), level=3, statistic="count")
            save_figure(plot_sky(sky, "", title="metal-poor candidates"), given.out / "metal_poor.png")
        print(given.out / "metal_poor.ecsv")


if __name__ == "__main__":
    main()
