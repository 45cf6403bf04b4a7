"""Mathematics alone: iterations, data terms, schedules, linear algebra; no files, bars or signals."""
