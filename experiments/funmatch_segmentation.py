"""Function matching for segmentation: teacher and three arms of equal steps, beside the slides' table.

    python experiments/funmatch_segmentation.py --small [--out runs/funmatch-scenes]

`--small` is the built-in road scenes at 48×96 with small encoders, three seeds: about 8 minutes on 2
CPU cores; a killed run goes on where it was. Puts one row into results/funmatch.jsonl. Expected there:
teacher near 33 % mIoU, the matched student above the supervised one by about a point and nearer to
the teacher in its answers; most of the gap closed (slides, BDD100K: 0.97).
"""

import argparse
from pathlib import Path

from fmce.commands.distill import distill
from fmce.configs import to_dict
from fmce.engine.runlog import record_result
from fmce.matching_config import matching_preset

RESULTS = Path(__file__).resolve().parent.parent / "results" / "funmatch.jsonl"
# "Effectiveness of Function Matching in Driving Scene Recognition" (2022), BDD100K, mIoU in percent.
SLIDES = {"teacher": 64.83, "supervised": 61.48, "labelled": 61.70, "funmatch": 64.74}


def main() -> None:
    """Run the experiment, print ours beside the slides' and record the row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", required=True, help="built-in road scenes")
    parser.add_argument("--out", type=Path, default=Path("runs/funmatch-scenes"))
    out = parser.parse_args().out
    config = matching_preset("scenes")
    result = distill(config, out)
    ours = {"teacher": result["teacher"]["miou"]} | {a["arm"]: a["mean"] for a in result["arms"]}
    print(f"{'':12s}{'here':>10s}{'slides':>10s}   mIoU, %")
    for name, published in SLIDES.items():
        print(f"{name:12s}{100 * ours[name]:10.2f}{published:10.2f}")
    gap = (SLIDES["funmatch"] - SLIDES["supervised"]) / (SLIDES["teacher"] - SLIDES["supervised"])
    print(f"{'gap closed':12s}{result['gap_closed'] or float('nan'):10.2f}{gap:10.2f}")
    row = {
        "experiment": "funmatch_segmentation",
        "what": "function matching on built-in scenes",
        "seed": list(config.seeds),
        "result": result,
        "config": to_dict(config),
    }
    record_result(RESULTS, row, key=("what",))


if __name__ == "__main__":
    main()
