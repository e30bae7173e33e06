"""The list of slow files names files that exist, each of them once."""

from tests.support.slow_files import ROOT, SLOW_FILES


def test_lists_existing_files_once() -> None:
    assert [name for name in SLOW_FILES if not (ROOT / name).is_file()] == []
    assert len(set(SLOW_FILES)) == len(SLOW_FILES)
