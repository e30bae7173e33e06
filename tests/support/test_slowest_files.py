"""The list of the slowest files names files that exist, each of them once."""

from tests.support.slowest_files import SLOWEST_FILES, TESTS


def test_lists_existing_files_once() -> None:
    assert [name for name in SLOWEST_FILES if not (TESTS / name).is_file()] == []
    assert len(set(SLOWEST_FILES)) == len(SLOWEST_FILES)
