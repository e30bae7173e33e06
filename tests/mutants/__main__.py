"""Put faults into the modules of modules.toml, one at a time, and print those that no test notices.

make mutants                                             # all modules, takes hours
make mutants MODULES=health/check_runner.py              # one module, or those that a pattern matches
make mutants MODULES='health/check_runner.py:*report*'   # the mutants whose names a pattern matches
make mutants MODULES='core/*' SAMPLE=40 SEED=1           # some of the mutants, chosen at random
"""

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
from fnmatch import fnmatchcase
from functools import partial
from hashlib import sha256
from pathlib import Path

from tests.mutants import configuration
from tests.mutants.mutations import Mutant, mutants_of
from tests.mutants.report import has_low_score, has_survivors, print_killed, print_survivors, print_table
from tests.mutants.workers import WorkerError, run

ROOT = Path(__file__).resolve().parents[2]
MAX_EQUIVALENTS_OF_SAMPLE = 3


def main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    options = _parse()
    patterns = options.modules.split()
    tests = configuration.modules([pattern.split(":")[0] for pattern in patterns])
    mutants = [mutant for module in tests for mutant in mutants_of(module, (ROOT / module).read_bytes())]
    reasons = configuration.equivalents()
    unknown = {name for name in reasons if name.split(":")[0] in tests} - {mutant.name for mutant in mutants}
    if unknown:
        sys.exit("make mutants: equivalents.toml lists mutants that do not exist:\n" + "\n".join(sorted(unknown)))
    mutants = [mutant for mutant in mutants if _matches(mutant, patterns)]
    if not mutants:
        sys.exit(f"make mutants: no module of modules.toml and no mutant matches {options.modules}.")
    # The equivalent ones run too. If one is killed, it is none, or the runner does not work.
    equivalent = [mutant for mutant in mutants if mutant.name in reasons]
    mutants = [mutant for mutant in mutants if mutant.name not in reasons]
    if options.sample:
        mutants = sample(mutants, options.sample, options.seed)
        equivalent = sample(equivalent, MAX_EQUIVALENTS_OF_SAMPLE, options.seed)
    (ROOT / "var").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mutants-", dir=ROOT / "var", ignore_cleanup_errors=True) as folder:
        try:
            copies = [_copy(Path(folder, str(number))) for number in range(options.workers)]
            outcomes = run(copies, mutants + equivalent, tests, partial(print_survivors, mutants))
        except WorkerError as error:
            sys.exit(f"make mutants: {error}")
    print_table(mutants, outcomes, reasons)
    has_wrong_reason = print_killed(equivalent, outcomes)
    is_part = options.sample or ":" in options.modules
    return has_wrong_reason or (has_survivors if is_part else has_low_score)(mutants, outcomes)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modules", default="*", help="patterns of the paths of modules, or of the names of mutants")
    parser.add_argument("--sample", type=int, default=0, help="how many mutants to choose at random (0: all)")
    parser.add_argument("--seed", default="1", help="another seed chooses other mutants")
    parser.add_argument("--workers", type=int, default=2)
    return parser.parse_args()


def sample(mutants: list[Mutant], size: int, seed: str) -> list[Mutant]:
    """Choose some mutants by the hashes of their names, so that a change of the code hardly changes the choice."""
    chosen = sorted(mutants, key=lambda mutant: sha256(f"{seed} {mutant.name}".encode()).digest())[:size]
    return [mutant for mutant in mutants if mutant in chosen]


def _matches(mutant: Mutant, patterns: list[str]) -> bool:
    return any(fnmatchcase(mutant.name if ":" in pattern else mutant.module, pattern) for pattern in patterns)


def _copy(copy: Path) -> Path:
    """Copy the files of the project that git knows or would add, so that the mutants do not disturb anybody."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                            cwd=ROOT, capture_output=True, text=True, check=True).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    (copy / ".venv").symlink_to(ROOT / ".venv")
    return copy


if __name__ == "__main__":
    sys.exit(main())
