"""Find more stars like this one: neighbours by spectrum, as a table and as a figure."""

from __future__ import annotations

import numpy as np
from playground import database, options

from specdb.plots.style import COLOURS, new_figure, save_figure
from specdb.spectra import get_modality
from specdb.store import matrix


def main(arguments: list[str] | None = None) -> None:
    """Run the example."""
    parser = options(__doc__)
    parser.add_argument("--star", type=int, help="spectrum_id to start from; by default the one of highest S/N")
    parser.add_argument("-k", type=int, default=5)
    given = parser.parse_args(arguments)
    with database(given.db) as (db, _):
        best = "SELECT spectrum_id FROM lamost_lrs ORDER BY snr_g DESC LIMIT 1"
        star = given.star or db.sql(best).to_arrow()["spectrum_id"][0].as_py()

        # Other visits of the same star are near, too, but they are not *more* stars: leave them out.
        hits = db.search(star, k=given.k, modality="lamost_lrs", exclude="star")
        print(hits.to_table()["rank", "score", "spectrum_id", "ra", "dec", "snr_g", "subclass"])
        print(hits.index.certificate)

        ids = [star, *hits.ids.tolist()]
        flux = matrix(db.spectra(ids, "lamost_lrs")["flux"])
        figure, axes = new_figure(9, 1 + 0.9 * len(ids))
        wavelength = get_modality("lamost_lrs").wavelength
        for row, (name, spectrum) in enumerate(zip(ids, flux, strict=True)):
            axes.plot(wavelength, spectrum - 0.5 * row, lw=0.7, color="k" if row == 0 else COLOURS[0])
            axes.text(5600, 1.02 - 0.5 * row, f" {name}", fontsize=7, va="bottom", ha="right")
        axes.set(xlabel="wavelength [vacuum Angstrom]", ylabel="normalised flux, shifted", xlim=(4000, 5600))
        axes.set_ylim(np.nanquantile(flux[-1], 0.01) - 0.5 * len(ids), 1.5)
        given.out.mkdir(parents=True, exist_ok=True)
        print(*save_figure(figure, given.out / "stars_like_this_one.png"))


if __name__ == "__main__":
    main()
