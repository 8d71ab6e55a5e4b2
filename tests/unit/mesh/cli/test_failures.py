"""Errors become one line and the exit code of their kind; bugs stay what they are."""

import pytest

from mesh import errors
from mesh.cli import failures
from mesh.cli.failures import Failure, explain


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError("key"), failures.CONFIGURATION),
        (errors.NotFound("node"), failures.NOT_FOUND),
        (errors.NoService("method"), failures.NOT_FOUND),
        (errors.ModeBlocked("safe"), failures.REFUSED),
        (errors.Denied("scope"), failures.REFUSED),
        (errors.Invalid("number"), failures.USAGE),
        (errors.Expired("late"), failures.TIMEOUT),
        (errors.OutcomeUnknown("late"), failures.TIMEOUT),
        (errors.Overloaded("full"), failures.TIMEOUT),
        (TimeoutError(), failures.TIMEOUT),
        (errors.StorageError("disk"), failures.ERROR),
        (PermissionError(13, "Permission denied", "state"), failures.ERROR),
        (ExceptionGroup("tasks", [errors.NotFound("node")]), failures.NOT_FOUND),
    ],
)
def test_each_kind_has_its_exit_code(error: BaseException, code: int) -> None:
    failure = explain(error)
    assert isinstance(failure, Failure)
    assert failure.exit_code == code


def test_a_bug_is_not_hidden() -> None:
    bug = KeyError("x")
    assert explain(bug) is bug


def test_a_failure_is_explained_already() -> None:
    failure = Failure(failures.REFUSED, "no")
    assert explain(failure) is failure


def test_the_message_is_one_printable_line_of_bounded_length() -> None:
    failure = Failure(failures.ERROR, "a\n b\x1b[31m" + "c" * 1_000)
    assert failure.message.startswith("a b?[31mccc")
    assert len(failure.message) == failures.LINE_CHARS_MAX


def test_an_error_of_the_system_names_its_file() -> None:
    failure = explain(PermissionError(13, "Permission denied", "state/tokens.json"))
    assert str(failure) == "Permission denied: state/tokens.json"
