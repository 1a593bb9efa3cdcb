"""A system small enough to be killed, corrupted and run again many times in the tests."""
