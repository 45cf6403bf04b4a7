"""Run the benchmarks, each script in its own process, and write results/benchmarks.json and .md.

python benchmarks/run_all.py                    # everything
python benchmarks/run_all.py --only radon       # one claim
python benchmarks/run_all.py --quick            # tiny sizes, to test the scripts
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from report import markdown, write

HERE = Path(__file__).parent
SCRIPTS = (
    "radon",
    "fan_beam",
    "cone_beam",
    "spect",
    "denoising",
    "ct_solve",
    "faster_solves",
    "stack",
    "verdict",
    "outliers",
    "rings",
    "truncation",
    "held_out",
    "error_bars",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to test the scripts")
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, default=SCRIPTS, help="run these scripts only")
    parser.add_argument("--output", type=Path, default=HERE.parent / "results", help="folder for the two files")
    arguments = parser.parse_args()
    records, failed = [], []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.only:
            path = Path(folder) / f"{name}.json"
            command = [sys.executable, str(HERE / f"{name}.py"), "--output", str(path)]
            done = subprocess.run(command + ["--quick"] * arguments.quick)
            if done.returncode != 0 or not path.exists():
                failed.append(name)
                continue
            records.append(json.loads(path.read_text()))
            print()
    if records:
        tables = {r["title"]: [tuple(row["cells"]) for row in r["rows"]] for r in records}
        # Facts of the first script, since the load of the others includes that of earlier scripts.
        write(arguments.output / "benchmarks.json", json.dumps(records, indent=1))
        write(arguments.output / "benchmarks.md", markdown(records[0]["machine"], tables))
        print(f"written: {arguments.output / 'benchmarks.json'} and benchmarks.md")
    missed = [f"{row['what']}, {row['who']}" for r in records for row in r["rows"] if row["met"] is False]
    if missed and not arguments.quick:
        print("targets missed:", *missed, sep="\n  ")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
