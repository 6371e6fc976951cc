"""Simulated pairs to calibrate a model with: of a template, of people's label maps, and of people's scans."""

import numpy as np

from crossmorph.datasets.anatomies import SPLITS
from crossmorph.quality.calibration import people_pairs, scan_pairs, template_pairs
from crossmorph.quality.calibration.simulated_pair import Setting, SimulatedPair, chosen

# How often a pair is of each source, relative to the others that are given.
TEMPLATE, ANATOMIES, SCANS = "template", "anatomies", "scans"
SOURCES = {TEMPLATE: 1.0, ANATOMIES: 2.0, SCANS: 1.0}


def draw(setting: Setting, seed: int, number: int) -> SimulatedPair:
    """Pair ``number`` of a seed; it depends on these and the setting alone."""
    rng = np.random.default_rng([seed, SPLITS.index(setting.split), number])
    given = {TEMPLATE: True, ANATOMIES: setting.anatomies is not None, SCANS: setting.scans is not None}
    drawn = {
        TEMPLATE: template_pairs.draw_template,
        ANATOMIES: people_pairs.draw_people,
        SCANS: scan_pairs.draw_scan,
    }
    source = chosen(rng, {name: weight for name, weight in SOURCES.items() if given[name]})
    return drawn[source](setting, rng)
