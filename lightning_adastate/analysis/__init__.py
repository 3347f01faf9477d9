"""What a stream reads, where it stands and what it costs: layouts, attention, operations, replays."""
