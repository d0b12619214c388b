import pytest

from dualpath.utils.text import error_reason, first_n_and_more, first_n_lines


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("one\n  two\tthree "), "one two three"),
        (KeyError(), "KeyError"),
        (OSError(2, "No such file"), "[Errno 2] No such file"),
        (ValueError("a long reason that ends"), "a long ..."),
    ],
)
def test_a_reason_is_one_line_and_shortened_at_a_word(error, reason):
    assert error_reason(error, 24 if len(str(error)) < 23 else 10) == reason


@pytest.mark.parametrize(
    ("names", "text"),
    [([], ""), (["a"], "a"), (["a", "b"], "a, b"), (["a"] * 1003, "a, a and 1,001 more")],
)
def test_the_first_names_are_shown_and_the_others_counted(names, text):
    assert first_n_and_more(names, 2) == text


def test_the_first_lines_are_shown_and_the_others_counted():
    assert first_n_lines(["a", "b"], 2) == "a\nb"
    assert first_n_lines(["a", "b", "c"], 2) == "a\nb\n... and 1 more"
