"""Changes files at random and reads them in forked processes: a crash is found and its mutation named."""
import os
import pickle
import resource
import signal
from collections.abc import Callable
from typing import Any

import numpy as np

MEMORY = 3 << 30  # bytes of address space that a child may take beside what it has
SECONDS = 120


def mutate(data: bytes, seed: int) -> bytes:
    """One of six kinds of damage, drawn by ``seed``."""
    rng = np.random.default_rng(seed)
    changed = bytearray(data)
    kind, place = int(rng.integers(6)), int(rng.integers(len(data)))
    length = int(rng.integers(1, 1 + min(64, len(data) - place)))
    if kind == 0:
        changed[place] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        changed[place:place + length] = rng.bytes(length)
    elif kind == 2:
        del changed[place:]
    elif kind == 3:
        del changed[place:place + length]
    elif kind == 4:
        changed[place:place] = rng.bytes(length)
    else:
        source = int(rng.integers(len(data)))
        changed[place:place + length] = data[source:source + length]
    return bytes(changed)


def judge_in_child(judge: Callable[[int], str], seeds: list[int]) -> dict[int, str]:
    """``judge(seed)`` of each seed, run in a forked process with bounded memory and time.

    Returns:
        Seed -> answer; ``'crash'`` for one that ended the process.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        code = 1
        try:
            used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            signal.alarm(SECONDS)
            answers = {seed: judge(seed) for seed in seeds}
            with os.fdopen(writing, 'wb') as file:
                pickle.dump(answers, file)
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, 'rb') as file:
        answer = file.read()
    status = os.waitpid(child, 0)[1]
    if status == 0:
        return pickle.loads(answer)
    if len(seeds) == 1:
        return {seeds[0]: 'crash'}
    half = len(seeds) // 2
    return {**judge_in_child(judge, seeds[:half]), **judge_in_child(judge, seeds[half:])}


def summarize(answers: dict[int, Any]) -> dict[Any, list[int]]:
    """Answer -> its first seeds."""
    found: dict[Any, list[int]] = {}
    for seed, answer in answers.items():
        found.setdefault(answer, []).append(seed)
    return {answer: seeds[:5] for answer, seeds in found.items()}
