"""The training loop of distillation: optimizer, schedule, held-out checks, best state, time budget, checkpoints."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import distributed

from lwgraph.cache import write_beside
from lwgraph.errors import DataError
from lwgraph.passes.recover import optimizers
from lwgraph.passes.recover.feeding import Fed, Feeder
from lwgraph.passes.recover.objectives import Objective, tensors
from lwgraph.passes.recover.sample_pool import SamplePool, TrainingBatch

Tensor: TypeAlias = "torch.Tensor"
StateDict = dict[str, Tensor]
CHECKS = 20  # held-out checks in a full run
CHECK_SHARE = 0.1  # share of a limited time that checks may take
EQUAL = 1e-7  # a held-out loss that is rounding: there is nothing to learn
STEPS = 1000  # steps that a training should have if its time is limited and its batch not given
MOST_BATCH = 64
LOOKS = 10  # steps of length zero before any other, for the optimizer to know how large gradients are
TRIAL_WARMUP = 0.3  # share of a trial: Adam's first steps are of full size, whatever the gradient
HARMLESS = 1.1  # times the loss at start, that a trial may end at: its few steps are Adam's roughest
MOST_ROUNDING = 0.03  # share of the initial loss that bfloat16 alone may add
TRIAL_SHARE = 0.02  # share of the training for each learning rate that is tried
TRIAL_STEPS = 12  # least steps of a trial: after fewer, mostly warm-up, any rate looks harmless
TRIALS_SHARE = 0.25  # share of a limited time that all trials together may take
HELD_OUT_BATCH = 64
VALUES_SHARE, ANSWERS_SHARE = 0.5, 0.25  # of the memory: what is kept of a batch for the way back; answers


@dataclass(frozen=True)
class Settings:
    """Settings of training. Times in seconds; 0 steps or seconds: no limit of that kind (one of them must be set)."""

    steps: int
    seconds: float
    batch: int  # samples per step; 0: so many that the run has about STEPS, of 4 to MOST_BATCH
    versions: int  # versions of the data, each put to the teacher once; 0: new ones in every round
    optimizer: str  # "adam", "soap" or "sgd"
    rate: float  # 0: the highest of optimizers.RATES that does no harm in a trial
    warmup: float  # share of the run in which the rate rises
    decay: float  # weight decay, decoupled (adam) or L2 (sgd)
    clip: float  # largest norm of the gradient; 0: none
    patience: int  # checks without improvement before stopping; 0: never
    augmentations: tuple[str, ...]
    crops: tuple[tuple[str, ...], int]  # inputs to cut squares out of, and the side of those
    precision: str  # "float32"; "bfloat16"; "gradients": that in the backward run only; "auto": see _precision
    cuts: tuple[str, ...]  # block boundaries; empty: end to end
    forced: bool  # blocks see the teacher's values instead of the student's own
    seed: int
    threads: int
    checkpoint: Path | None = None
    memory: int | None = None  # bytes that values and answers may take, beside weights and optimizer; None: any


@dataclass
class Progress:
    """The progress of a training: what a checkpoint holds besides weights and optimizer."""

    step: int = 0
    elapsed: float = 0.0
    rate: float = 0.0  # the learning rate at its highest
    batch: int = 0
    precision: str = "float32"
    first: float = math.nan  # held-out loss before training
    best: float = math.inf
    stale: int = 0  # checks since the best
    history: list[tuple[int, float]] = field(default_factory=list)  # (step, held-out loss)


def room(student: Any, teacher: Any, optimizer: str, memory: int) -> int:
    """Bytes of `memory` that weights, gradients, the best state and two states of the optimizer leave; may be below 0.

    Args:
        student, teacher: GraphModules.
        optimizer: its name.
        memory: bytes that training may take.
    """
    parameters = [p for _, p in student.weights()]
    weights = sum(p.numel() * p.element_size() for p in parameters)
    theirs = sum(p.numel() * p.element_size() for p in teacher.parameters())
    return int(memory - 3 * weights - theirs - 2 * optimizers.state_bytes(optimizer, parameters))


class Trainer:
    """Trains the weights of `student` (a GraphModule) to have the objective's values in common with `teacher`.

    Under torch.distributed every process holds both models, draws its own batches, and shares gradients and held-out
    losses; all end in the same state.

    Args:
        student, teacher: GraphModules that compute `objective.values`.
        objective: the loss.
        pool, held: rows to train on, and those to judge by.
        settings: see there.
        batched: inputs that have one row per sample.
        fingerprint: identifies model and settings; a checkpoint of another is refused.
        report: called with (step, training loss, held-out loss, share of the run done).
    """

    def __init__(
        self,
        student: Any,
        teacher: Any,
        objective: Objective,
        pool: SamplePool,
        held: SamplePool,
        settings: Settings,
        batched: frozenset[str],
        fingerprint: str,
        report: Callable[[int, float, float, float], None] = lambda step, loss, held, share: None,
    ) -> None:
        self.student, self.teacher, self.objective = student, teacher, objective
        self.pool, self.held, self.settings, self.batched = pool, held, settings, batched
        self.fingerprint, self.report = fingerprint, report
        self.progress = Progress()
        self.rank = distributed.get_rank() if distributed.is_initialized() else 0
        self.world = distributed.get_world_size() if distributed.is_initialized() else 1
        self._parameters = [p for _, p in student.weights()]
        _channels_last(student)
        _channels_last(teacher)
        self._module = student
        if self.world > 1:
            self._module = torch.nn.parallel.DistributedDataParallel(student)
        self._optimizer: Any = optimizers.make(settings.optimizer, self._parameters, 0.0, settings.decay)
        self._best: StateDict = student.state()
        self._most = MOST_BATCH  # rows of a batch, at most
        self._targets: dict[int, Mapping[str, Tensor]] = {}  # the teacher's values on the held-out batches

    # ------------------------------------------------------------------ the run

    def run(self) -> Progress:
        """Train; the student is left in its best state (the first one, where nothing was better)."""
        with _threads(self.settings.threads):
            return self._run()

    def _run(self) -> Progress:
        settings, progress = self.settings, self.progress
        started = time.monotonic()
        self._most = self._affordable_batch()
        resumed = self._resume()
        first, cost = self.held_out_loss(), time.monotonic() - started
        if resumed:
            started -= progress.elapsed
            self._feeder = self._feeds(progress.batch)
        else:
            progress.first = progress.best = first
            progress.history.append((0, first))
            if first <= EQUAL:
                return progress
            progress.precision = self._precision(first) if settings.precision == "auto" else settings.precision
            progress.batch = min(settings.batch or self._fitting_batch(), self._most)
            self._feeder = self._feeds(progress.batch)
            looked = self._looked(started)
            progress.rate = settings.rate or self._highest_rate(first, looked, started)
            self._begin(progress.rate, looked)
            del looked  # as much as the weights, or more
        count = self._checks(cost)
        steps = self._feeder.steps(progress.step)
        checks = math.floor(self._done(started) * count)
        recent: list[float] = []
        while (share := self._done(started)) < 1:
            self._set_rate(share, settings.warmup)
            recent.append(self._step(list(next(steps))))
            progress.step += 1
            done = self._done(started)
            if math.floor(done * count) > checks:
                checks = math.floor(done * count)
                progress.elapsed = time.monotonic() - started
                self._check(float(np.mean(recent)), done)
                recent = []
                if settings.patience and progress.stale >= settings.patience:
                    break
        self.student.load_state(self._best)
        return progress

    def _precision(self, first: float) -> str:
        """The fastest in which training can go: bfloat16 where the loss between the student in it and the student in
        float32 is little beside the loss at start, else that in the backward run only; float32 where the processor has
        no bfloat16."""
        if not optimizers.processor_has_bfloat16():
            return "float32"
        batch = next(self.held.batches(min(HELD_OUT_BATCH, self._most)))
        feeds = tensors(batch.feeds)
        with torch.no_grad():
            exact = self.student(feeds)
            with torch.autocast("cpu", torch.bfloat16):
                rounded = self.student(feeds)
            little = float(self.objective(rounded, exact, _labels(batch))) <= MOST_ROUNDING * first
        return "bfloat16" if little else "gradients"

    def _feeds(self, batch: int) -> Feeder:
        settings = self.settings
        return Feeder(
            self.pool,
            max(1, batch // self.world),
            settings.versions,
            settings.augmentations,
            self.batched,
            self._ask,
            (settings.seed, self.rank),
            settings.crops,
            *(() if settings.memory is None else (int(ANSWERS_SHARE * settings.memory),)),
        )

    def _affordable_batch(self) -> int:
        """The samples whose values fit into the memory, from what one run of a few keeps for the way back."""
        if self.settings.memory is None:
            return MOST_BATCH
        fed = next(iter(next(self._feeds(self.world).steps(0))))
        sizes: dict[int, int] = {}

        def seen(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        own = {p.untyped_storage().data_ptr() for p in self._parameters}
        with torch.autograd.graph.saved_tensors_hooks(seen, lambda tensor: tensor):
            loss = self._loss(fed)
        rows = max([1, *(len(t) for name, t in fed.feeds.items() if name in self.batched)])
        one = sum(size for at, size in sizes.items() if at not in own) / rows
        del loss
        most = torch.tensor(max(1, min(MOST_BATCH, int(VALUES_SHARE * self.settings.memory / max(one, 1.0)))))
        if self.world > 1:
            distributed.broadcast(most, 0)
        return int(most.item())

    def _fitting_batch(self) -> int:
        """The largest power of two of samples for which STEPS steps fit into the time; process 0 decides."""
        if self.settings.steps or not self.settings.seconds:
            return MOST_BATCH
        few = 4 * self.world
        steps, spent = self._feeds(few).steps(0), math.inf
        for _ in range(3):
            fed = list(next(steps))
            started = time.monotonic()
            (self._loss(fed[0]) / len(fed)).backward()
            spent = min(spent, (time.monotonic() - started) * len(fed) / few)
            self.student.zero_grad(set_to_none=True)
        most = self.settings.seconds / STEPS / spent
        count = torch.tensor(2 ** max(2, min(round(math.log2(MOST_BATCH)), math.floor(math.log2(max(most, 1))))))
        if self.world > 1:
            distributed.broadcast(count, 0)
        return int(count.item())

    def _looked(self, run_started: float) -> StateDict:
        """The optimizer's state after LOOKS steps of length zero, fewer where the run's time is over. Without them the
        first steps, for which one gradient says how large all are, destroy what a fitted model has."""
        feeds = self._feeder.steps(0)
        self._begin(0.0, {})
        for _ in range(LOOKS):
            if self._done(run_started) >= 1:
                break
            self._step(list(next(feeds)))
        found: StateDict = self._optimizer.state_dict()
        return found

    def _begin(self, rate: float, state: StateDict, *, trial: bool = False) -> None:
        """Have a new optimizer, in this state where it is not empty; of a trial's, the state stays as it is."""
        self._optimizer = None  # what the one before holds goes first
        optimizer = optimizers.make(self.settings.optimizer, self._parameters, rate, self.settings.decay)
        if state:
            optimizer.load_state_dict(copy.deepcopy(state) if trial else state)
        self._optimizer = optimizer

    def _highest_rate(self, first: float, looked: StateDict, run_started: float) -> float:
        """The highest of the optimizer's RATES at which a short run of its own, warm-up and decay included, leaves the
        held-out loss below HARMLESS times what it was; the lowest where none does, or where time is short: TRIALS_SHARE
        of the run. The weights stay as they were. Each trial takes TRIAL_SHARE of the run, at least TRIAL_STEPS."""
        settings = self.settings
        start, began = self._best, time.monotonic()  # nothing was trained so far
        steps = max(1, round(TRIAL_SHARE * settings.steps))
        rates = optimizers.RATES[settings.optimizer]
        for rate in rates[:-1]:
            self.progress.rate = rate
            self._begin(rate, looked, trial=True)
            feeds, done, started = self._feeder.steps(0), 0, time.monotonic()
            share = 0.0
            while share < 1 or done < TRIAL_STEPS:
                if self._done(run_started) >= 1 or self._share(began, 0, 1, TRIALS_SHARE * settings.seconds) >= 1:
                    self.student.load_state(start)
                    return rates[-1]
                self._set_rate(min(share, done / TRIAL_STEPS), TRIAL_WARMUP)
                self._step(list(next(feeds)), trial=True)
                done += 1
                share = self._share(started, done, steps, TRIAL_SHARE * settings.seconds)
            loss = self.held_out_loss()
            self.student.load_state(start)
            self.report(0, first, loss, 0.0)
            if loss < HARMLESS * first:
                return rate
        return rates[-1]

    def _checks(self, cost: float) -> int:
        """The number of held-out checks of the training, given what one takes; the same in every process."""
        count = torch.tensor(CHECKS)
        if self.settings.seconds and not self.settings.steps:
            count = torch.tensor(min(CHECKS, max(2, int(CHECK_SHARE * self.settings.seconds / max(cost, 1e-9)))))
        if self.world > 1:
            distributed.broadcast(count, 0)
        return int(count.item())

    def _done(self, started: float) -> float:
        """The share of the training that is done."""
        return self._share(started, self.progress.step, self.settings.steps, self.settings.seconds)

    def _share(self, started: float, step: int, steps: int, seconds: float) -> float:
        """The share done, by steps or by time, whichever is larger; process 0 decides for all. A limit of 0 is none."""
        by_steps = step / steps if self.settings.steps else 0.0
        by_time = (time.monotonic() - started) / seconds if seconds else 0.0
        share = torch.tensor(max(by_steps, by_time), dtype=torch.float64)
        if self.world > 1:
            distributed.broadcast(share, 0)
        return float(share.item())

    def _step(self, runs: list[Fed], trial: bool = False) -> float:
        """One optimizer step; a trial may diverge, for which its held-out loss is not a number."""
        total = 0.0
        for index, fed in enumerate(runs):
            last = index == len(runs) - 1
            together = contextlib.nullcontext() if last or self.world == 1 else self._module.no_sync()
            with together:
                loss = self._loss(fed) / len(runs)
                if not trial and not torch.isfinite(loss):
                    raise DataError(
                        f"distillation diverged at step {self.progress.step}: the loss is {loss.item()}; "
                        f"use a smaller rate than {self.progress.rate:g}"
                    )
                loss.backward()
            total += loss.item()
        if self.settings.clip:
            torch.nn.utils.clip_grad_norm_(self._parameters, self.settings.clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return total

    def _ask(self, feeds: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        with self._autocast(), torch.no_grad():
            answers: Mapping[str, Tensor] = self.teacher(feeds)
        return answers

    def _loss(self, fed: Fed) -> Tensor:
        replace: dict[str, Tensor | None] = {
            name: fed.targets[name] if self.settings.forced else None for name in self.settings.cuts
        }
        self.student.mode.rounded_gradients = self.progress.precision == "gradients"
        with self._autocast():
            found = self._module(fed.feeds, replace)
        return self.objective(found, fed.targets, fed.labels)

    def _autocast(self) -> Any:
        narrow = self.progress.precision == "bfloat16"
        return torch.autocast("cpu", torch.bfloat16) if narrow else contextlib.nullcontext()

    def _set_rate(self, share: float, warmup: float) -> None:
        """Warm-up, then half a cosine down to zero at the end of the budget."""
        if share < warmup:
            factor = (share + 1e-3) / (warmup + 1e-3)
        else:
            factor = 0.5 * (1 + math.cos(math.pi * (share - warmup) / (1 - warmup)))
        for group in self._optimizer.param_groups:
            group["lr"] = self.progress.rate * factor

    # ------------------------------------------------------------------ judging

    def held_out_loss(self) -> float:
        """The mean loss over the held-out rows, end to end, in float32, without augmentation."""
        total = torch.zeros(2, dtype=torch.float64)
        with torch.no_grad():
            for index, batch in enumerate(self.held.batches(min(HELD_OUT_BATCH, self._most))):
                if index % self.world != self.rank:
                    continue
                feeds = tensors(batch.feeds)
                rows = max((len(v) for n, v in batch.feeds.items() if n in self.batched), default=1)
                if index not in self._targets:
                    self._targets[index] = self.teacher(feeds)
                loss = self.objective(self.student(feeds), self._targets[index], _labels(batch))
                total += torch.tensor([loss.item() * rows, rows], dtype=torch.float64)
        if self.world > 1:
            distributed.all_reduce(total)
        return float(total[0] / total[1])

    def _check(self, training_loss: float, share: float) -> None:
        progress = self.progress
        loss = self.held_out_loss()
        progress.history.append((progress.step, loss))
        if loss < progress.best:
            progress.best, progress.stale, self._best = loss, 0, self.student.state()
        else:
            progress.stale += 1
        self._save()
        self.report(progress.step, training_loss, loss, min(share, 1.0))

    # ------------------------------------------------------------------ checkpoints

    def _save(self) -> None:
        path = self.settings.checkpoint
        if path is None or self.rank:
            return
        content = {
            "fingerprint": self.fingerprint,
            "progress": vars(self.progress),
            "best": self._best,
            "state": self.student.state(),
            "optimizer": self._optimizer.state_dict(),
        }
        try:
            with write_beside(path) as beside:
                torch.save(content, beside)
        except (OSError, RuntimeError) as error:
            raise DataError(f"the checkpoint '{path}' cannot be written: {error}") from error

    def _resume(self) -> bool:
        path = self.settings.checkpoint
        if path is None or not path.exists():
            return False
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a damaged file makes torch raise
            raise DataError(f"the checkpoint '{path}' cannot be read: {' '.join(str(error).split())[:200]}") from error
        if not isinstance(content, dict) or content.get("fingerprint") != self.fingerprint:
            raise DataError(
                f"the checkpoint '{path}' belongs to another model or other settings; remove it or name another file"
            )
        self.student.load_state(content["state"])
        self._optimizer.load_state_dict(content["optimizer"])
        self._best = content["best"]
        vars(self.progress).update(content["progress"])
        return True


def _labels(batch: TrainingBatch) -> Tensor | None:
    return None if batch.labels is None else torch.from_numpy(batch.labels.astype(np.int64))


def _channels_last(module: Any) -> None:
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
