"""What a training stage would take on machines that are not there: memory, time, money."""
