"""Tables as we accept them from files."""

import pytest

from medusa_bench.base.documents import parse_csv
from medusa_bench.base.errors import InvalidFileError


def test_a_table_is_its_names_and_rows() -> None:
    names, rows = parse_csv('a,b\n1,"x, y"\n2,\n', where="t.csv")
    assert names == ("a", "b")
    assert rows == [{"a": "1", "b": "x, y"}, {"a": "2", "b": ""}]
    assert parse_csv("", where="t.csv") == ((), [])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n1\n", "t.csv, row 2 has not 2 cells"),
        ("a,b\n1,2,3\n", "t.csv, row 1 has not 2 cells"),
        ("a,b,a\n1,2,3\n", "t.csv: the column 'a' stands twice"),
        ("a,b\r1,2\x001\n", "t.csv"),
        ('a,b\n1,"2\n', "t.csv, line . is no CSV"),
    ],
)
def test_what_is_no_whole_table_is_refused(text: str, said: str) -> None:
    with pytest.raises(InvalidFileError, match=said):
        parse_csv(text, where="t.csv")
