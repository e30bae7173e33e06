"""Print the mutants that survived, and the share of those that were killed."""

from collections import Counter

from tests.mutants.configuration import MIN_SCORE
from tests.mutants.forks import Outcome
from tests.mutants.mutations import Mutant


def print_report(
    mutants: list[Mutant], outcomes: dict[str, Outcome], reasons: dict[str, str], *, is_sample: bool
) -> int:
    """Return the exit code: 1 if a mutant of a sample has survived, or too many of a module."""
    survivors = [mutant for mutant in mutants if outcomes[mutant.name].status == "survived"]
    for mutant in survivors:
        print(f"\n{mutant.name}\n{difference(mutant)}")
    total = Counter(mutant.module for mutant in mutants)
    survived = Counter(mutant.module for mutant in survivors)
    equivalent = Counter(name.split(":")[0] for name in reasons)
    print(f"\n{'module':50} {'killed':>7} {'survived':>9} {'equivalent':>11} {'score':>6}")
    for module, count in sorted(total.items()):
        killed = count - survived[module]
        print(f"{module:50} {killed:7} {survived[module]:9} {equivalent[module]:11} {killed / count:6.0%}")
    if is_sample:
        return bool(survivors)
    return any(1 - survived[module] / count < MIN_SCORE for module, count in total.items())


def difference(mutant: Mutant) -> str:
    """Return the changed lines of the original and of the mutant."""
    start = mutant.original.rfind(b"\n", 0, mutant.edit.start) + 1
    rest = mutant.original[mutant.edit.end :].split(b"\n")[0]
    before = mutant.original[start : mutant.edit.end] + rest
    after = mutant.original[start : mutant.edit.start] + mutant.edit.text.encode() + rest
    lines = [f"-{line}" for line in before.decode().splitlines()] + [f"+{line}" for line in after.decode().splitlines()]
    return f"{mutant.module}:{mutant.line}\n" + "\n".join(lines)
