"""Where the nodes of a candidate tree stand, for whatever draws them."""

from collections.abc import Mapping

from medusa_bench.compare.trees import CandidateTree, Path


def likeliest(shown: CandidateTree, probability: Mapping[Path, float]) -> set[Path]:
    """The root and the path of likeliest guesses below it."""
    path: Path = ()
    found = {path}
    while children := [p for p in shown.paths if p[:-1] == path]:
        path = max(children, key=lambda child: probability[child])
        found.add(path)
    return found


def across(shown: CandidateTree) -> dict[Path, float]:
    """Where each node stands across: leaves side by side, parents over the middle of theirs."""
    children: dict[Path, list[Path]] = {}
    for path in shown.paths:
        children.setdefault(path[:-1], []).append(path)
    places: dict[Path, float] = {}
    leaves = 0

    def place(path: Path) -> None:
        nonlocal leaves
        if below := children.get(path):
            for child in below:
                place(child)
            places[path] = (places[below[0]] + places[below[-1]]) / 2
        else:
            places[path] = float(leaves)
            leaves += 1

    place(())
    return places
