"""The contributor's documents: what they point to is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = (
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "results/paper/README.md",
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_and_named_files_are_there(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    linked = re.findall(r"\]\((?!https?://|#)([^)#]+)", text)
    named = re.findall(r"`((?:medusa_bench|tests|tools|profiles|results)/[\w./-]*)`", text)
    places = ((ROOT / name).parent, ROOT, ROOT / "medusa_bench")
    missing = [
        each
        for each in (*linked, *named)
        if not any((place / ending).exists() for place in places for ending in (each, f"{each}.py"))
    ]
    assert missing == []


def test_packages_of_the_page_are_those_of_the_house() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    floors = set(re.findall(r"^(?:\d| )  (\w+)/ ", page, flags=re.MULTILINE))
    house = ROOT / "medusa_bench"
    assert floors == {path.name for path in house.iterdir() if path.is_dir()} - {"__pycache__"}
    files = {path.name for path in house.iterdir() if path.is_file()}
    assert files == {"__init__.py", "__init__.pyi", "__main__.py", "py.typed"}


def test_citation_names_the_paper_and_our_version() -> None:
    from medusa_bench import __version__

    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert "arXiv:2401.10774" in text
    assert f"version: {__version__}\n" in text


def test_accuracy_in_the_readme_is_that_of_the_pages() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    comparing = (ROOT / "docs" / "comparing.md").read_text(encoding="utf-8")
    predicting = (ROOT / "docs" / "predicting.md").read_text(encoding="utf-8")
    rows = re.search(r"^all +(\d+) +0\.(\d\d) +\S+ +(\d+)%", comparing, flags=re.MULTILINE)
    assert rows is not None
    count, median, inside = rows.groups()
    assert f"off by {int(median)} % in the median over {count} published ones" in readme
    assert f"{inside} % of them lie inside the 90 % interval" in readme
    cells = re.search(
        r"^\| all but 12 of .*\| ([\d.]+) \| ([\d.]+) \| (\d+) \|$", predicting, re.MULTILINE
    )
    assert cells is not None
    mean, bare, inside = cells.groups()
    assert f"mean error of {mean} % (the bare\n  roofline: {bare} %), {inside} % of them" in readme
    model, gpu = (
        re.search(rf"^\| {row}[^|]*\|[^|]*\| ([\d. /]+) \|", predicting, re.MULTILINE)
        for row in ("a model, on A100", "the GPU itself: A100")
    )
    assert model is not None
    assert gpu is not None
    for found, words in ((model, "{} to {} % on A100, A40 and H100"), (gpu, "{} to {} %, against")):
        errors = found.group(1).split(" / ")
        assert words.format(min(errors, key=float), max(errors, key=float)) in readme
