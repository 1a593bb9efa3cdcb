"""Words between the processes of a run, through the runtime's key-value store.

No device takes part: unlike a collective of the CPU backend, nothing runs into a time limit while
one process reads or writes a large file.
"""

import itertools

import jax

# A process that dies ends the others by itself; this bounds only how slow a living one may be.
_PATIENCE_MS = 24 * 3600 * 1000
_calls = itertools.count()


def gather(text: str) -> list[str]:
    """Every process' text, in the processes' order; returns when all have called it.

    All processes must make the same calls in the same order, from their main threads.
    """
    if jax.process_count() == 1:
        return [text]
    # The store has no public name.
    from jax._src import distributed

    state = distributed.global_state
    call = next(_calls)
    folder = f"headjax/gathered/{call}"
    state.client.key_value_set(f"{folder}/{state.process_id}", text)
    state.client.wait_at_barrier(f"{folder}/all", _PATIENCE_MS)
    texts = [
        state.client.blocking_key_value_get(f"{folder}/{index}", _PATIENCE_MS)
        for index in range(state.num_processes)
    ]
    if call:  # all have come here, so all have read what was gathered before
        state.client.key_value_delete(f"headjax/gathered/{call - 1}/{state.process_id}")
    return texts
