"""Print the mutants that survived, and the share of those that were killed."""

from collections import Counter

from tests.mutants.configuration import MIN_SCORE
from tests.mutants.forks import Outcome
from tests.mutants.mutations import Mutant

Outcomes = dict[str, Outcome]  # by the mutant's name


def print_survivors(mutants: list[Mutant], outcomes: Outcomes) -> None:
    for mutant in mutants:
        if mutant.name in outcomes and _has_survived(outcomes[mutant.name]):
            print(f"\nSurvived: {mutant.name}\n{difference(mutant)}", flush=True)


def print_table(mutants: list[Mutant], outcomes: Outcomes, reasons: dict[str, str]) -> None:
    """Print the score of each module: the share of its mutants that were killed, without the equivalent ones."""
    equivalent = Counter(name.split(":")[0] for name in reasons)
    print(f"\n{'module':50} {'killed':>7} {'survived':>9} {'equivalent':>11} {'score':>6}")
    for module, (survived, total) in sorted(_counts(mutants, outcomes).items()):
        score = 1 - survived / total
        print(f"{module:50} {total - survived:7} {survived:9} {equivalent[module]:11} {score:6.0%}")


def print_killed(equivalent: list[Mutant], outcomes: Outcomes) -> bool:
    """Print mutants that are listed as equivalent, although a test notices them. Return whether there are any."""
    killed = [mutant for mutant in equivalent if not _has_survived(outcomes[mutant.name])]
    for mutant in killed:
        outcome = outcomes[mutant.name]
        print(f"\nNot equivalent ({outcome.status} by {outcome.by or 'its time limit'}): {mutant.name}")
    return bool(killed)


def has_survivors(mutants: list[Mutant], outcomes: Outcomes) -> bool:
    return any(_has_survived(outcomes[mutant.name]) for mutant in mutants)


def has_low_score(mutants: list[Mutant], outcomes: Outcomes) -> bool:
    return any(1 - survived / total < MIN_SCORE for survived, total in _counts(mutants, outcomes).values())


def _counts(mutants: list[Mutant], outcomes: Outcomes) -> dict[str, tuple[int, int]]:
    total = Counter(mutant.module for mutant in mutants)
    survived = Counter(mutant.module for mutant in mutants if _has_survived(outcomes[mutant.name]))
    return {module: (survived[module], count) for module, count in total.items()}


def _has_survived(outcome: Outcome) -> bool:
    return outcome.status == "survived"


def difference(mutant: Mutant) -> str:
    """Return the changed lines of the original and of the mutant."""
    start = mutant.original.rfind(b"\n", 0, mutant.edit.start) + 1
    rest = mutant.original[mutant.edit.end :].split(b"\n")[0]
    before = mutant.original[start : mutant.edit.end] + rest
    after = mutant.original[start : mutant.edit.start] + mutant.edit.text.encode() + rest
    lines = [f"-{line}" for line in before.decode().splitlines()] + [f"+{line}" for line in after.decode().splitlines()]
    return f"{mutant.module}:{mutant.line}\n" + "\n".join(lines)
