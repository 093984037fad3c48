"""lwgraph's own passes, on the same terms as its peers: MODEL FEEDS OUT OPTIONS, options: passes.

Prints what stayed in float as JSON on its last line.
"""

import json
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lwgraph import ir, registry
from lwgraph.rewrite import Context, Pipeline


class Folder(Sequence[Any]):
    """The samples of a folder; each is read when it is used. `repeat` > 0: that many, from the start again."""

    def __init__(self, folder: str, repeat: int = 0) -> None:
        self.files = sorted(pathlib.Path(folder).glob("*.npz"))
        self.count = repeat or len(self.files)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: Any) -> Any:
        if not -self.count <= index < self.count:
            raise IndexError(index)
        return dict(np.load(self.files[index % self.count % len(self.files)]))

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(self.count))


path, feeds, out, given = sys.argv[1:]
options = json.loads(given)
model = ir.load(path)
samples: Any = Folder(feeds, options.get("samples", 0))
context = Context(executor=registry.executor("ort", threads=1), data=samples, threads=1)
Pipeline.parse(options["passes"]).run(model, context)
ir.save(model, out, overwrite=True)
print(json.dumps([[s.pass_name, s.place, s.reason] for s in context.skipped]))
