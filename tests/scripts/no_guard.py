"""Forgets `if __name__ == "__main__":`, so that each worker process would begin the search again."""

import asyncio
import json
import os
import sys

import asynchopper as ah

words = json.loads(sys.argv[1])
wire = os.open(words["wire"], os.O_WRONLY)
os.write(wire, json.dumps(["imported", os.getpid()]).encode() + b"\n")


def objective(params: dict) -> float:
    os.write(wire, json.dumps(["evaluated"]).encode() + b"\n")
    return params["x"]


search = ah.Search(x=ah.float(0, 1))
asyncio.run(
    search.run(objective, steps=8, concurrency=4, executor="process", checkpoint_path=words["path"], quiet=True)
)
