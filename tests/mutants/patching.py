"""Put a mutated function into this process, where its module is already imported."""

import gc
from collections.abc import Iterable
from types import CodeType, FunctionType

from tests.mutants.mutations import Mutant

Change = tuple[FunctionType, CodeType]
Key = tuple[str, int]  # qualified name and first line, which tells functions with the same name apart


def functions_of(path: str) -> list[FunctionType]:
    """Return all functions of this process that the module at `path` defines."""
    candidates = (candidate for candidate in gc.get_objects() if type(candidate) is FunctionType)
    return [function for function in candidates if function.__code__.co_filename == path]


def changes(mutant: Mutant, functions: Iterable[FunctionType], path: str) -> list[Change]:
    """Return those of the functions that the mutant changes, with their new code, [] if that is impossible."""
    before = _functions(compile(mutant.original, path, "exec", dont_inherit=True))
    after = _functions(compile(mutant.content, path, "exec", dont_inherit=True))
    found: list[Change] = []
    for function in functions:
        code = function.__code__
        key = (code.co_qualname, code.co_firstlineno)
        if key in before and key in after and before[key] != after[key]:
            if code.co_freevars != after[key].co_freevars:
                return []
            found.append((function, after[key]))
    return found


def is_in_function(mutant: Mutant) -> bool:
    """Return whether the rest of the module stays the same."""
    before = compile(mutant.original, "module", "exec", dont_inherit=True)
    after = compile(mutant.content, "module", "exec", dont_inherit=True)
    return _without_functions(before) == _without_functions(after)


def _functions(code: CodeType) -> dict[Key, CodeType]:
    """Return the codes of all functions in a module, with those inside of functions."""
    found: dict[Key, CodeType] = {}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            if constant.co_flags & 3:  # a function has CO_OPTIMIZED and CO_NEWLOCALS, the body of a class has neither
                found[constant.co_qualname, constant.co_firstlineno] = constant
            found |= _functions(constant)
    return found


def _without_functions(code: CodeType) -> tuple[object, ...]:
    constants = tuple(
        (_without_functions(constant) if not constant.co_flags & 3 else (constant.co_qualname, constant.co_flags))
        if isinstance(constant, CodeType)
        else (type(constant), constant)
        for constant in code.co_consts
    )
    return (code.co_code, code.co_names, constants)
