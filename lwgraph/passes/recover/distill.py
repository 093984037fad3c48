"""distill: trains the rewritten model to imitate the original on unlabelled inputs. Needs the `torch` extra."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from lwgraph import ir, registry
from lwgraph.calibrate.augmentations import augmentations
from lwgraph.calibrate.signature import batched_inputs, signature
from lwgraph.errors import ModelError, UsageError
from lwgraph.passes.recover import synthesize
from lwgraph.passes.recover.crops import croppable
from lwgraph.passes.recover.matching import chosen, cut_points, matched, penultimate
from lwgraph.passes.recover.objective_terms import terms
from lwgraph.passes.recover.sample_pool import SamplePool
from lwgraph.rewrite.base import Context, Contract, Gain, Pass

if TYPE_CHECKING:
    from lwgraph.passes.recover.objectives import Objective
    from lwgraph.passes.recover.training import Progress, Trainer

_MOST_HELD_OUT = 1024
_LEAST_ROOM = 0.1  # of the memory must be left for values, beside weights and optimizer


@dataclass(frozen=True)
class Distill(Pass):
    """Train the weights to imitate the original model on the calibration inputs; needs PyTorch, but no labels.

    Knowledge distillation (Hinton et al. 2015, arXiv 1503.02531) from the model before any approximate rewrite. The
    structure stays, the weights change; quantized weights stay on their grid. The best state on held-out inputs is
    kept; where none is better than the start, the model stays as it was. With a limit on steps and none on minutes the
    same input gives the same weights.
    """

    name = "distill"
    contract = Contract.APPROXIMATE

    minutes: Annotated[float, "time budget; 0: none, then steps must be set"] = 10.0
    steps: Annotated[int, "optimizer steps at most; 0: as many as the time allows"] = 0
    batch: Annotated[int, "samples per step; 0: as the time allows, 4 to 64"] = 0
    crop: Annotated[int, "side of the squares to train on, of models from images to images; 0: whole images"] = 64
    versions: Annotated[
        int, "versions of the data, each varied once and put to the teacher once; 0: vary anew in every round"
    ] = 8
    objective: Annotated[str, "terms, such as kl+features:0.5, of kl, mse, cosine, features, labels"] = "auto"
    features: Annotated[tuple[str, ...], "values to match besides the outputs; none named: the penultimate ones"] = ()
    temperature: Annotated[float, "temperature of the softmax in kl"] = 2.0
    blocks: Annotated[
        Literal["end", "student", "teacher"],
        "train end to end, or block by block, fed by the student or by the teacher",
    ] = "end"
    optimizer: Annotated[
        Literal["auto", "adam", "soap", "sgd"], "how to step; auto: adam where class scores are compared, else soap"
    ] = "auto"
    rate: Annotated[float, "learning rate at its highest; 0: the highest that does no harm in a trial"] = 0.0
    warmup: Annotated[float, "share of the run in which the rate rises; then it falls along a cosine"] = 0.05
    decay: Annotated[float, "weight decay"] = 0.0
    clip: Annotated[float, "largest norm of the gradient; 0: none"] = 1.0
    augment: Annotated[str, "none, auto (what the data allow), or flip, turn, zoom, shift, tone, mixup joined by +"] = (
        "auto"
    )
    precision: Annotated[
        Literal["auto", "float32", "gradients", "bfloat16"],
        "precision of training; gradients: bfloat16 in the backward run only; auto: bfloat16 where that is fast "
        "and exact enough, else gradients",
    ] = "auto"
    scales: Annotated[bool, "train the scales of quantization, too"] = False
    held_out: Annotated[float, "share of the samples to judge by"] = 0.15
    patience: Annotated[int, "stop after so many checks (of twenty) without improvement; 0: never"] = 8
    synthetic: Annotated[int, "inputs to synthesize where there are no data"] = 128
    recorded: Annotated[str, "file of moments to synthesize from, instead of BatchNormalizations"] = ""
    checkpoint: Annotated[str, "file to save to and to resume from"] = ""

    def __post_init__(self) -> None:
        for name in ("minutes", "steps", "batch", "crop", "versions", "rate", "decay", "clip", "patience"):
            self.check_option(name, getattr(self, name) >= 0, getattr(self, name), "0 or more")
        self.check_option("temperature", self.temperature > 0, self.temperature, "above 0")
        self.check_option("warmup", 0 <= self.warmup < 1, self.warmup, "from 0 to below 1")
        self.check_option("held_out", 0 < self.held_out < 1, self.held_out, "above 0, below 1")
        self.check_option("synthetic", self.synthetic >= 2, self.synthetic, "2 or more")
        terms(self.objective)
        if self.augment not in ("none", "auto"):
            augmentations(self.augment, "option 'augment' of pass 'distill'")
        if not self.minutes and not self.steps:
            raise UsageError("pass 'distill' needs a limit: set minutes or steps")

    def run(self, model: ir.Model, context: Context) -> int:
        """Train in place; how many initializers changed.

        Raises:
            UsageError: PyTorch is not installed, or the teacher or the data are missing.
            ModelError: a model has control flow or an operator that the torch executor does not know.
            DataError: training diverged, or a checkpoint cannot be used.
        """
        if context.teacher is None:
            raise UsageError(
                "pass 'distill' needs the original model to imitate; run it from optimize, or set the "
                "teacher of the context"
            )
        registry.executor("torch")  # says how to install it, before anything else is done
        data = context.data if context.data else self._without_data(context.teacher, context)
        trainer, student = self._trainer(model, context.teacher, data, context)
        if trainer is None:
            context.skip(self.name, model.graph.name or "model", "the model has no trainable weight")
            return 0
        progress = trainer.run()
        better = progress.best < progress.first
        what = f"held-out loss (rate {progress.rate:g})"
        context.gains.append(Gain(self.name, what, progress.first, progress.best, better))
        if not better:
            context.skip(self.name, model.graph.name or "model", self._why(progress))
            return 0
        return int(student.store(model))

    def _why(self, progress: Progress) -> str:
        """Why nothing was better than the start."""
        from lwgraph.passes.recover import training

        if progress.first <= training.EQUAL:
            return "its outputs are those of the original"
        if not progress.step:
            return f"{60 * self.minutes:g} s had passed before the first step; raise minutes, or set batch and rate"
        return "training did not lower the loss on held-out inputs"

    def _without_data(self, teacher: ir.Model, context: Context) -> list[Any]:
        """Inputs synthesized from what was recorded: the file's moments, or those of the BatchNormalizations."""
        moments = synthesize.load(self.recorded) if self.recorded else synthesize.batch_norm_moments(teacher)
        if not moments:
            raise UsageError(
                "pass 'distill' needs calibration samples; give --data (the original model has no "
                "BatchNormalization whose statistics could stand in for them)"
            )
        feeds, first, last = synthesize.synthesize(
            teacher,
            moments,
            self.synthetic,
            context.seed,
            threads=context.threads,
            progress=lambda done, total: context.progress("synthesizing inputs", done, total),
        )
        source = f"'{self.recorded}'" if self.recorded else "its BatchNormalizations"
        context.warn(
            f"no calibration data: distilled on {self.synthetic} inputs synthesized to match the statistics "
            f"of {source} (distance {first:.3g} -> {last:.3g}); real data would do better"
        )
        return feeds

    def _trainer(self, model: ir.Model, teacher: ir.Model, data: Any, context: Context) -> tuple[Trainer | None, Any]:
        executor: Any = registry.executor("torch", threads=context.threads)
        from lwgraph.passes.recover import augment, training

        inputs = signature(model)
        pool, held = SamplePool(data, inputs, self._labels(data)).split(self.held_out, _MOST_HELD_OUT, context.seed)
        common = matched(teacher, model)
        cuts = cut_points(model, common) if self.blocks != "end" else []
        names = chosen(self.features, common) if self.features else penultimate(model, common)
        objective = self._objective(model, teacher, executor, held, [*cuts, *names], names, cuts)
        student = executor.module(model, objective.values, scales=self.scales)
        if not any(True for _ in student.weights()):
            return None, student
        variations = augment.kinds(self.augment, getattr(data, "augment", ()))
        if "labels" in objective.weights:
            variations = augment.keep_labels(variations, self.augment)
        sample = next(held.batches(1)).feeds
        runs = [executor.prepare(m, objective.values) for m in (teacher, model)]
        crops = croppable(self.crop, inputs, batched_inputs(inputs), sample, runs)
        pieces = max(1, sample[crops[0]][0, 0].size // self.crop**2) if crops else 1  # a version shows one of each row
        imitated = executor.module(teacher, objective.values)
        optimizer = self.optimizer if self.optimizer != "auto" else "adam" if "kl" in objective.weights else "soap"
        memory = context.memory_bytes
        if memory is not None:
            most, room = memory, partial(training.room, student, imitated, memory=memory)
            if self.optimizer == "auto" and room(optimizer) < _LEAST_ROOM * most:
                optimizer = "adam"  # which keeps less
            memory = room(optimizer)
            if memory < _LEAST_ROOM * most:
                raise ModelError(
                    f"training takes {(most - memory) / 1e6:,.0f} MB for weights and the state of {optimizer} alone, "
                    f"and {most / 1e6:,.0f} MB are allowed; give more --memory"
                )
        settings = training.Settings(
            steps=self.steps,
            seconds=60 * self.minutes,
            batch=self.batch,
            versions=self.versions * pieces,
            optimizer=optimizer,
            rate=self.rate,
            warmup=self.warmup,
            decay=self.decay,
            clip=self.clip,
            patience=self.patience,
            augmentations=variations,
            crops=(crops, self.crop),
            precision="float32" if self.precision == "auto" and not _convolves(model) else self.precision,
            cuts=tuple(name for name in objective.features if name in cuts),
            forced=self.blocks == "teacher",
            seed=context.seed,
            threads=context.threads,
            checkpoint=Path(self.checkpoint) if self.checkpoint else None,
            memory=memory,
        )
        trainer = training.Trainer(
            student,
            imitated,
            objective,
            pool,
            held,
            settings,
            batched_inputs(inputs),
            _fingerprint(self, model, teacher, context.seed),
            lambda step, loss, held, share: context.progress(
                f"distilling: step {step}, loss {loss:.4g}, held-out {held:.4g}", round(1000 * share), 1000
            ),
        )
        return trainer, student

    def _labels(self, data: Any) -> Any:
        labels = getattr(data, "labels", None) if "labels" in self.objective else None
        return None if labels is None else np.asarray(labels)

    def _objective(
        self,
        model: ir.Model,
        teacher: ir.Model,
        executor: Any,
        held: SamplePool,
        candidates: Sequence[str],
        names: Sequence[str],
        cuts: Collection[str],
    ) -> Objective:
        """The objective over those values that have one shape in both models on a sample."""
        from lwgraph.passes.recover import objectives

        outputs = [v.name or "" for v in model.graph.outputs]
        wanted = list(dict.fromkeys([*outputs, *candidates]))
        feeds = next(held.batches(1)).feeds
        theirs, ours = (executor.prepare(m, wanted)(feeds) for m in (teacher, model))
        same = [n for n in wanted if theirs[n].shape == ours[n].shape and theirs[n].dtype.kind == "f"]
        for name in outputs:
            if theirs[name].shape != ours[name].shape:
                raise ModelError(
                    f"output '{name}' has shape {list(ours[name].shape)}, the original's has "
                    f"{list(theirs[name].shape)}: the model cannot imitate it"
                )
        for name in self.features:
            if name not in same:
                raise ModelError(
                    f"value '{name}' has shape {list(ours[name].shape)} here and "
                    f"{list(theirs[name].shape)} in the original"
                )
        import torch

        sample = {n: torch.from_numpy(a) for n, a in theirs.items()}
        labelled = any(bucket.labels is not None for bucket in held.buckets)
        found = objectives.build(
            self.objective, model, sample, [n for n in names if n in same], self.temperature, labelled
        )
        return objectives.blocks(found, [n for n in cuts if n in same]) if cuts else found


def _convolves(model: ir.Model) -> bool:
    return any(ir.operator(node) in ir.LINEAR for node in model.graph)


def _fingerprint(settings: Distill, model: ir.Model, teacher: ir.Model, seed: int) -> str:
    text = f"{settings!r} {seed} {ir.fingerprint(model)} {ir.fingerprint(teacher)}"
    return hashlib.sha256(text.encode()).hexdigest()
