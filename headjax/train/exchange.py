"""Words between the processes of a run, through the runtime's key-value store.

No device takes part: unlike a collective of the CPU backend, nothing runs into a time limit while
one process reads or writes a large file.
"""

import itertools
import json
import time
from collections.abc import Callable
from typing import Any

import jax

from headjax.errors import UserError

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


def on_first(work: Callable[[], Any]) -> Any:
    """What process 0's `work` returns (anything JSON can hold), on all processes, when it is done.

    Raises:
        UserError: on all of them, where process 0's raised one.
    """
    told = ""
    if jax.process_index() == 0:
        try:
            told = json.dumps({"result": work()})
        except UserError as error:
            told = json.dumps({"mistake": str(error)})
    answer = json.loads(gather(told)[0])
    if "mistake" in answer:
        raise UserError(answer["mistake"])
    return answer["result"]
