#!/usr/bin/env python3
"""Writes histories of rejoin's executable model, with the reads it expects after every step.

    python3 export.py DIRECTORY FIRST COUNT                       to standard output, one JSON line per history
    python3 export.py DIRECTORY FIRST COUNT --gzip corpus.jsonl.gz

DIRECTORY holds model.py; FIRST and COUNT choose the seeds.  No dependencies.  The checked-in corpus is

    python3 export.py ../../../../../shared/design 0 1200 --gzip corpus.jsonl.gz

Two families of histories, by seed:
  mixed      the model's own random intents on registers, sets and counters.  Intents on documents are left out;
             a transaction that had no others stays, as one that changes nothing, so that dots are the model's.
  counters   every eighth seed: long histories of increments with rare removals, so that a replica comes to hold
             more than 16 sent increments of its own in one row and folds them.

A line is {"seed", "replicas", "steps"}; a step is one of
  ["commit", replica, time, [intent, ..], reads]     an intent is [verb, path] or [verb, path, argument]
  ["pull", [to, from], limit or null, reads]
  ["join", [to, from], reads]
  ["truncate", replica, [[replica, sequence], ..], reads]
where `reads` has the paths whose read has changed since that replica's previous step: null where nothing is left,
[latest, siblings] for a register, true for a set element, the sum for a counter.
"""
import gzip
import json
import random
import sys
import types

sys.dont_write_bytecode = True

LONG_STEPS = (150, 250)


class LongRandom(random.Random):
    """Draws a longer history where the model asks for its number of steps."""

    def randint(self, low, high):
        return super().randint(*(LONG_STEPS if (low, high) == (20, 120) else (low, high)))


def increments(rng):
    roll, path = rng.random(), ("counter", "m", rng.choice("xxxxxxxy"))
    if roll < .01:
        return [("remove", path)]
    if roll < .015:
        return [("remove_tree", ("counter", "m"))]
    return [("increment", path, rng.randint(-3, 9))]


def histories(model, seeds):
    random_intents = model.random_intents
    for seed in seeds:
        if seed % 8 == 7:
            model.random, model.random_intents = types.SimpleNamespace(Random=LongRandom), increments
        else:
            model.random = random
            model.random_intents = lambda rng: [i for i in random_intents(rng) if i[1][0] != "document"]
        yield model.history(seed)


def compact(history):
    """Keeps of each step's reads what differs from the reads of the same replica before."""
    known, steps = {name: {} for name in history["replicas"]}, []
    for step in history["steps"]:
        now = {path: [r["latest"], r["siblings"]] if isinstance(r, dict) else r for path, r in step["reads"].items()}
        if "commit" in step:
            replica, line = step["commit"], ["commit", step["commit"], step["time"], step["ops"]]
        elif "pull" in step:
            replica, line = step["pull"][0], ["pull", step["pull"], step["limit"]]
        elif "join" in step:
            replica, line = step["join"][0], ["join", step["join"]]
        else:
            replica, line = step["truncate"], ["truncate", step["truncate"], step["dots"]]
        was, known[replica] = known[replica], now
        changed = {path: read for path, read in now.items() if path not in was or was[path] != read}
        steps.append(line + [{**changed, **{path: None for path in was if path not in now}}])
    return {"seed": history["seed"], "replicas": history["replicas"], "steps": steps}


def main(directory, first, count, gzip_flag=None, file=None):
    sys.path.insert(0, directory)
    import model
    seeds = range(int(first), int(first) + int(count))
    lines = (json.dumps(compact(h), separators=(",", ":")) + "\n" for h in histories(model, seeds))
    if gzip_flag is None:
        sys.stdout.writelines(lines)
    elif gzip_flag == "--gzip" and file:
        # No name and no time in the header: the same histories give the same file.
        with open(file, "wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as out:
            out.writelines(line.encode() for line in lines)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    if len(sys.argv) not in (4, 6):
        sys.exit(__doc__)
    main(*sys.argv[1:])
