"""Words between the processes of a run, through the runtime's key-value store.

No device takes part: unlike a collective of the CPU backend, nothing runs into a time limit while
one process reads or writes a large file.
"""

import itertools
import time

import jax

_POLL_SECONDS = 0.05
_calls = itertools.count()


def gather(text: str) -> list[str]:
    """Every process' text, in the processes' order; returns when all have called it.

    All processes must make the same calls in the same order, from their main threads. Signals are
    handled while it waits, and a process that dies ends the others by itself (`watch`).
    """
    if jax.process_count() == 1:
        return [text]
    # The store has no public name.
    from jax._src import distributed

    state = distributed.global_state
    call = next(_calls)
    folder = f"headjax/gathered/{call}"
    state.client.key_value_set(f"{folder}/{state.process_id}", text)
    while len(texts := state.client.key_value_dir_get(folder)) < state.num_processes:
        time.sleep(_POLL_SECONDS)
    if call > 1:  # all have come here, so all have read what was gathered before the last time
        state.client.key_value_delete(f"headjax/gathered/{call - 2}/{state.process_id}")
    return [text for _, text in sorted(texts, key=lambda pair: int(pair[0].rpartition("/")[2]))]
