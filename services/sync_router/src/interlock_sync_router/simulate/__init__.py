"""Made-up fleets, to try the planner on."""
