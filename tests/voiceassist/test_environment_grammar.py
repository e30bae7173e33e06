"""The grammar of each kind of variable: all spellings that are accepted, and neighbours that are not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from voiceassist.environment import Environment

NAME = "NAME"
Read = Callable[..., Any]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Read:
    """Return a function that sets the variable and returns what a method of Environment returns."""

    def read(method: str, value: str, *args: Any, **kwargs: Any) -> Any:
        monkeypatch.setenv(NAME, value)
        return getattr(Environment(), method)(NAME, *args, **kwargs)

    return read


def refusal(call: Callable[..., object], *args: Any, **kwargs: Any) -> str:
    with pytest.raises(SystemExit) as raised:
        call(*args, **kwargs)
    return str(raised.value.code)


# Flags

TRUE = ["1", "true", "yes", "on", "True", "TRUE", "YES", "On", " true ", "\ttrue\n"]
FALSE = ["0", "false", "no", "off", "False", "FALSE", "NO", "Off", " false ", "\tfalse\n"]
BLANK = ["", " ", "\t", "\r\n", "\ufeff", " \ufeff "]
NO_FLAG = ["2", "-1", "00", "01", "1.0", "t", "f", "y", "n", "tr", "truee", "none", "true false"]


@pytest.mark.parametrize("default", [True, False])
def test_flag(default: bool, read: Read) -> None:
    for words, expected in ((TRUE, True), (FALSE, False), (BLANK, default)):
        assert {word: read("flag", word, default) for word in words} == dict.fromkeys(words, expected)
    message = "voiceassist: NAME: Not a boolean. Use true or false."
    assert {word: refusal(read, "flag", word, default) for word in NO_FLAG} == dict.fromkeys(NO_FLAG, message)


# Numbers

OTHER_DIGITS = ["²", "１", "٣", "½"]
NO_NUMBER = [
    *OTHER_DIGITS,
    "+1",
    "-1",
    "- 1",
    "1 000",
    "1_000",
    "1,000",
    "0x1",
    "1e3",
    "nan",
    "inf",
    "x",
    "1x",
    "'1'",
    ".",
]
NO_COUNT = [*NO_NUMBER, "1.5", "1.", "0", "0000", "00001", "1001", "9999", "10000", "9" * 5000]
NO_SECONDS = [*NO_NUMBER, "0.49", "3600.001", "3601", "9" * 5000, "1.2.3", "..5", "1.5s"]


def test_count(read: Read) -> None:
    counts = {"1": 1, "0001": 1, "08": 8, "999": 999, "1000": 1000, " 7\n": 7, "": 4, " ": 4}
    assert {text: read("count", text, 4) for text in counts} == counts
    assert {type(read("count", text, 4)) for text in counts} == {int}
    message = "voiceassist: NAME: Not a valid count. Use a whole number from 1 to 1000."
    assert {text: refusal(read, "count", text, 4) for text in NO_COUNT} == dict.fromkeys(NO_COUNT, message)


def test_seconds(read: Read) -> None:
    numbers = {"0.5": 0.5, ".5": 0.5, "1.": 1, "1": 1, "007.50": 7.5, "3600": 3600, "3600.0": 3600, " 2 ": 2, "": 4}
    assert {text: read("seconds", text, 4, minimum=0.5) for text in numbers} == numbers
    assert {type(read("seconds", text, 4, minimum=0.5)) for text in numbers} == {float}
    message = "voiceassist: NAME: Not a valid number of seconds. Use a number from 0.5 to 3600."
    refused = {text: refusal(read, "seconds", text, 4, minimum=0.5) for text in NO_SECONDS}
    assert refused == dict.fromkeys(NO_SECONDS, message)
    assert read("seconds", "0", 4) == 0.0


# Text


def test_text_is_taken_as_it_is(read: Read) -> None:
    for value in ("a b", "a\tb", "a\nb", "a\r\nb", "$HOME", "${X}", "ü€😀", "#", "a=b", "\\x00", "{}"):
        for written in (value, f"\ufeff {value}\n", f" \ufeff{value}"):
            assert read("text", written) == value


def test_invisible_character(read: Read) -> None:
    message = "voiceassist: NAME: Contains a control or invisible character, or is not UTF-8. Type the value again."
    for character in "\x01\x1b\x7f\x85\xa0\xad\u200b\u2028\ufeff\udcff":
        assert refusal(read, "text", f"a{character}b") == message, ascii(character)


def test_missing_text(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NAME, raising=False)
    assert Environment().text(NAME) is None
    assert Environment().text(NAME, "default") == "default"
    assert read("text", "") is None
    assert read("text", " ", "default") == "default"
    assert read("text", "value", "default") == "value"
    assert read("text", "value", required=True) == "value"
    required = "voiceassist: NAME: Required in production. Set it, or set NAME_FILE to a file that contains it."
    assert refusal(read, "text", "", required=True) == refusal(read, "text", " ", "default", required=True) == required


def test_choice(read: Read) -> None:
    assert read("choice", "b", "a", ("a", "b")) == "b"
    assert read("choice", "", "a", ("a", "b")) == "a"
    for value in ("B", "ab", "a b", "c"):
        message = "voiceassist: NAME: Not a valid choice. Use one of: a, b."
        assert refusal(read, "choice", value, "a", ("a", "b")) == message


def test_subset(read: Read) -> None:
    assert read("subset", " b,,a, ", ("a", "b")) == ["b", "a"]
    assert read("subset", "", ("a", "b")) == read("subset", " , ", ("a", "b")) == []
    for value in ("a,c", "a b", "A"):
        message = "voiceassist: NAME: Contains an unknown item. Use a comma-separated list of: a, b."
        assert refusal(read, "subset", value, ("a", "b")) == message


def test_token(read: Read) -> None:
    for value in ("!", "~", "a!~+/=", "x" * 5000):
        assert read("token", value) == value
    assert read("token", "") is None
    message = "voiceassist: NAME: Contains a character that an HTTP header can't carry. Use ASCII without spaces."
    for value in ("a b", "a\tb", "a\nb", "é", "a…"):
        assert refusal(read, "token", value) == message


KEY = "abcde" * 10  # 50 characters, 5 of them different


@pytest.mark.parametrize("value", [KEY[:-1], "abcd" * 20, f"django-insecure-{KEY}"], ids=["short", "few", "insecure"])
def test_weak_key(value: str, read: Read) -> None:
    problem = "is too weak. Use at least 50 random characters: openssl rand -hex 32."
    assert refusal(read, "secret_key", value, required=True) == f"voiceassist: NAME: The value {problem}"
    keys = f"{KEY},{KEY},{value}"
    assert refusal(read, "secret_key_fallbacks", keys, strong=True) == f"voiceassist: NAME: Item 3 {problem}"
    assert read("secret_key", value, required=False) == value
    assert read("secret_key_fallbacks", keys, strong=False) == [KEY, KEY, value]


def test_strong_key(read: Read) -> None:
    for value in (KEY, f"{KEY}-django-insecure-"):
        assert read("secret_key", value, required=True) == value
        assert read("secret_key_fallbacks", f"{value}, {KEY}", strong=True) == [value, KEY]
    assert read("secret_key", "", required=False) is None
    assert read("secret_key_fallbacks", "", strong=True) == []


# Files


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(NAME, raising=False)
    monkeypatch.setenv(f"{NAME}_FILE", str(tmp_path / "value"))
    return tmp_path / "value"


@pytest.mark.parametrize(
    "content", [b"value", b"value\n", b"value\r\n", b"\xef\xbb\xbfvalue\n", b"\n\n value \n\n"], ids=repr
)
def test_file(content: bytes, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_bytes(content)
    assert Environment().text(NAME) == "value"
    monkeypatch.setenv(NAME, "another value")
    assert Environment().text(NAME) == "value"
    file.write_bytes(b"new")
    assert Environment().text(NAME) == "new"  # SIGHUP reads secrets again


@pytest.mark.parametrize(
    ("content", "error"),
    [(b"\xff\xfe", "UnicodeDecodeError"), (b"\x80", "UnicodeDecodeError"), (None, "FileNotFoundError")],
    ids=["UTF-16", "binary", "missing"],
)
def test_unreadable_file(content: bytes | None, error: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv(NAME, "is not used instead")
    expected = f"voiceassist: NAME_FILE: The file can't be read ({error}). Check that it is readable text in UTF-8."
    assert refusal(Environment().text, NAME) == expected


def test_directory_is_no_file(file: Path) -> None:
    file.mkdir()
    assert "NAME_FILE: The file can't be read (IsADirectoryError)." in refusal(Environment().text, NAME)


def test_control_character_in_a_file(file: Path) -> None:
    file.write_bytes(b"a\x00b")
    assert refusal(Environment().text, NAME).startswith("voiceassist: NAME: Contains a control or invisible")


def test_empty_file_counts_as_unset(file: Path) -> None:
    file.write_bytes(b" \n")
    assert Environment().text(NAME, "default") == "default"
    assert "NAME: Required in production." in refusal(Environment().text, NAME, required=True)


def test_empty_name_of_a_file_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose passes `${NAME_FILE:-}`."""
    monkeypatch.setenv(f"{NAME}_FILE", "")
    monkeypatch.setenv(NAME, "value")
    assert Environment().text(NAME) == "value"


def test_knows_whether_files_are_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("value")
    environment = Environment()
    environment.text("ANOTHER_NAME")
    assert not environment.reads_files()
    environment.flag("A_FLAG", True)
    environment.text(NAME)
    assert environment.reads_files()
    assert environment.names == {"ANOTHER_NAME", "A_FLAG", NAME}
    monkeypatch.setenv(f"{NAME}_FILE", "")
    assert not environment.reads_files()
