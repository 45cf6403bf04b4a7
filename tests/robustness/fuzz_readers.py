"""Fuzz every reader for as long as you like: `python tests/robustness/fuzz_readers.py --minutes 5`.

Each target runs in a process of its own, with 4 GiB of memory and 15 seconds an input, so that crashes of C libraries,
hangs and memory blow-ups are findings, too. Inputs are good files with bytes or fields changed; with atheris installed,
`--atheris` lets its coverage choose the bytes. Findings are written to --out, each with the input that made it.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "support"), str(TESTS.parent)]

MEMORY = 4 * 2**30
PATIENCE = 15
"""Seconds that a small file may take."""
GROWTH = 2**30
"""Bytes by which the process may grow over one small file."""

LIBRARIES = {".dcm": "pydicom", ".tif": "tifffile", ".nii": "nibabel", ".fits": "astropy.io.fits", ".h5": "h5py"}
"""Whose branches count beside ours, by what a target's name holds."""


class Log:
    """Counts of what happened; a finding is written once, with its input."""

    def __init__(self, out: Path, name: str) -> None:
        self.out, self.name, self.counts, self.saved = out / name, name, Counter[str](), time.monotonic()
        self.out.mkdir(parents=True, exist_ok=True)

    def add(self, what: str, path: Path | None = None) -> None:
        first = what not in self.counts
        self.counts[what] += 1
        if path is not None and first:
            (self.out / f"finding_{len(self.counts)}_{path.name}").write_bytes(path.read_bytes())
        if first or time.monotonic() > self.saved + 1:
            self.save()

    def save(self) -> None:
        self.saved = time.monotonic()
        (self.out / "counts.part").write_text(json.dumps(self.counts, indent=1))
        (self.out / "counts.part").replace(self.out / "counts.json")  # whole, whenever the process ends


def judge(target: Any, path: Path, said: str, log: Log) -> None:
    """Read one input under the limits and record what happened."""
    from fuzz_targets import Broken, outcome

    def hang(*_: Any) -> None:
        raise BaseException(f"no answer in {PATIENCE} s")  # past the readers, which catch every Exception

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.signal(signal.SIGALRM, hang)
    signal.alarm(PATIENCE)
    try:
        log.add(outcome(target.read, path))
    except Broken as error:
        cause = error.__cause__
        frame = traceback.extract_tb(cause.__traceback__)[-1] if cause else None
        place = f" @ {Path(frame.filename).name}:{frame.lineno}" if frame else ""
        log.add(f"{str(error).replace(str(path.parent), '')[:160]}{place} {said}"[:300], path)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        log.add(f"HANG {error} {said}"[:200], path)
    finally:
        signal.alarm(0)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    if grown > GROWTH:
        log.add(f"MEMORY {grown >> 20} MiB {said}"[:200], path)


def child(name: str, seconds: float, seed: int, out: Path) -> None:
    """Fuzz one target by random changes of bytes and fields."""
    from fuzz_fields import LIES
    from fuzz_targets import TARGETS, some_edits, spoil

    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    target, rng, log, end = TARGETS[name], random.Random(seed), Log(out, name), time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        target.write(path)
        good = path.read_bytes()
        while time.monotonic() < end:
            path.write_bytes(good)
            said = ""
            if name in LIES and rng.random() < 0.5:
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        for _ in range(rng.randint(1, 2)):
                            said += f"{LIES[name](path, rng.randrange(10**6), rng.randrange(10**6))!r:.80} "
                except Exception:  # a lie upon a lie that the library cannot write
                    log.add("not written")
                    continue
            else:
                path.write_bytes(spoil(good, some_edits(rng)))
            (log.out / "last").write_bytes(path.read_bytes())  # a crash leaves it
            judge(target, path, said, log)
    log.save()


def guided(name: str, seconds: float, seed: int, out: Path) -> None:
    """Fuzz one target by atheris: libFuzzer changes bytes towards code that no input has reached."""
    import atheris

    library = next((module for suffix, module in LIBRARIES.items() if suffix in name), "pnp.readers")
    with atheris.instrument_imports(include=["pnp.readers", "pnp.io", library]):
        import fuzz_targets
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    target, log = fuzz_targets.TARGETS[name], Log(out, name)
    with tempfile.TemporaryDirectory() as folder:
        corpus, path = Path(folder) / "corpus", Path(folder) / name
        corpus.mkdir()
        target.write(path)
        (corpus / "good").write_bytes(path.read_bytes())

        def one(data: bytes) -> None:
            path.write_bytes(data)
            (log.out / "last").write_bytes(data)
            judge(target, path, "", log)

        limits = [
            f"-max_total_time={int(seconds)}",
            "-timeout=60",
            "-rss_limit_mb=0",
            f"-seed={seed}",
            "-max_len=30000",
        ]
        atheris.Setup([sys.argv[0], str(corpus), *limits, f"-artifact_prefix={log.out}/"], one)
        atheris.Fuzz()


def main() -> None:
    """Run the targets one after the other, again after a crash until the time is over, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="targets, by the names in fuzz_targets.py; none: all")
    parser.add_argument("--minutes", type=float, default=1.0, help="for each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "fuzz_readers")
    parser.add_argument("--atheris", action="store_true", help="coverage-guided; pip install atheris")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        (guided if given.atheris else child)(given.names[0], 60 * given.minutes, given.seed, given.out)
        return
    from fuzz_targets import TARGETS

    n_findings = 0
    for name in given.names or TARGETS:
        begin, total, seed = time.monotonic(), Counter[str](), given.seed
        while (left := 60 * given.minutes - (time.monotonic() - begin)) > 1:
            command = [sys.executable, __file__, name, "--child", "--minutes", str(left / 60), "--seed", str(seed)]
            command += ["--out", str(given.out), *["--atheris"] * given.atheris]
            counts = given.out / name / "counts.json"
            counts.unlink(missing_ok=True)
            try:
                done = subprocess.run(command, timeout=left + 90, capture_output=True, check=False).returncode
            except subprocess.TimeoutExpired:
                done = -signal.SIGKILL
            total.update(json.loads(counts.read_text()) if counts.exists() else {"no start": 1})
            if done and (given.out / name / "last").exists():
                total[f"CRASH {done}"] += 1
                crash = given.out / name / f"crash_{seed}_{name}"
                crash.write_bytes((given.out / name / "last").read_bytes())
            seed += 1
        findings = {k: v for k, v in total.items() if k not in ("read", "refused", "not written")}
        n_findings += len(findings)
        print(f"{name}: {sum(total.values())} inputs, {total['read']} read, {total['refused']} refused", flush=True)
        for what, count in findings.items():
            print(f"    {count} x {what}", flush=True)
    sys.exit(1 if n_findings else 0)


if __name__ == "__main__":
    main()
