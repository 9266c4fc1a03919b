"""Where parallel decoding pays: methods, acceptance, trees, simulation, schedules, verdicts."""
