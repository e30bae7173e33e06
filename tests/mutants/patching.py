"""Put a mutated function into this process, where its module is already imported."""

import gc
from types import CodeType, FunctionType

from tests.mutants.mutations import Mutant

Key = tuple[str, int]  # qualified name and first line, which tells functions with the same name apart


def patch(mutant: Mutant, path: str) -> bool:
    """Replace the code of all functions whose code the mutant changes. Return whether there were any.

    `path` is that of the module. Return False if the mutant changes something else than bodies of functions.
    """
    before = _functions(compile(mutant.original, path, "exec", dont_inherit=True))
    after = _functions(compile(mutant.content, path, "exec", dont_inherit=True))
    found = False
    for function in [candidate for candidate in gc.get_objects() if type(candidate) is FunctionType]:
        code = function.__code__
        key = (code.co_qualname, code.co_firstlineno)
        if code.co_filename == path and key in before and key in after and before[key] != after[key]:
            if code.co_freevars != after[key].co_freevars:
                return False
            function.__code__ = after[key]
            found = True
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
