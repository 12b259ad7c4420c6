"""What a run is on disk: two checkpoint files, a log and a lock."""
