"""Prompts by category: 80 of our own, and the files of MT-Bench, AlpacaEval and Spec-Bench."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prompt:
    """One conversation to answer: what the user says, turn by turn."""

    id: str
    category: str
    turns: tuple[str, ...]
