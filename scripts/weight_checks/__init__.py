"""The cheap checks of published weight systems: one file a system, named by its id, with `CLAIM` and `run(bench) -> (direction_shown, rows)`."""
