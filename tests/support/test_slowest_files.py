"""The list of the slowest files names files that exist, each of them once."""

from tests.support.slowest_files import ROOT, SLOWEST_FILES


def test_lists_existing_files_once() -> None:
    assert [name for name in SLOWEST_FILES if not (ROOT / name).is_file()] == []
    assert len(set(SLOWEST_FILES)) == len(SLOWEST_FILES)
