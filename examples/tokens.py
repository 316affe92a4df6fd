"""Tokens of a text, shown while they are made; the reader may stop early.

A stand-in for a model that writes word by word: what it yields arrives at once, and a
reader who has seen enough closes the generator, which tidies up.

    model: it was told to stop
    The generator of this text runs in another process ...
    stopped after 9 tokens
"""

import itertools

from forkrpc import Forker, event

TEXT = "The generator of this text runs in another process and never ends"


def write(text):
    """Yield the words of text for ever.  Runs in the worker."""
    count = 0
    try:
        for word in itertools.cycle(text.split()):
            count += 1
            yield word, count
    finally:
        event("model", "told to stop")


def report(source, message):
    print(f"{source}: it was {message}", flush=True)


def main():
    with Forker() as template, template.run(write, on_event=report) as model:
        words = []
        for word, count in model.stream(TEXT):
            words.append(word)
            if count == 9:
                break
    print(*words, "...")
    print(f"stopped after {len(words)} tokens")


if __name__ == "__main__":
    main()
