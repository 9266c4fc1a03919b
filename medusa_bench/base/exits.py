"""Text on its way out: to a terminal, a spreadsheet, a Markdown page. Names come from files.

A name may hold escape sequences that move a terminal's cursor, formulas that a spreadsheet runs,
or links and scripts that a page follows. Each exit makes them harmless here, and only there: what
is stored stays as it was.
"""

from typing import TypeVar

Value = TypeVar("Value")


def printable(text: str) -> str:
    """The text with "?" for what is no character to be seen; lines stay lines."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each == "\n" else "?" for each in text)


def csv_cell(value: Value) -> Value | str:
    """Text that a spreadsheet would run as a formula gets an apostrophe; numbers are left alone.

    What is no character to be seen becomes "?": a table also goes to terminals.
    """
    if not isinstance(value, str):
        return value
    return ("'" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else "") + printable(value)


def markdown_cell(text: str) -> str:
    """Text as one cell of a Markdown table: no markup, no link, no tag."""
    for sign in "\\`*_[]|":
        text = text.replace(sign, "\\" + sign)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return printable(text).replace("\n", " ")
