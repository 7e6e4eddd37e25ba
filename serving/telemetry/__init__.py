"""What operators see: metrics, log lines, traces, and the averages that time estimates come from."""
