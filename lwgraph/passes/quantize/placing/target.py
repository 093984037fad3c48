"""Quantization targets, read from files: what a runtime can do with integers."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from lwgraph import toml
from lwgraph.errors import UsageError, did_you_mean

FOLDER = Path(__file__).parent / "targets"
ROLES = ("compute", "convert", "keep", "free", "clip", "float_output", "recurrent", "open")
ACTIVATION_TYPES = ("uint8", "int8", "uint16", "int16")
WEIGHT_TYPES = ("int8", "uint8", "int4", "int16")


@dataclass(frozen=True)
class Target:
    """A runtime's integer rules. The fields are the keys of a target file; `docs/quantize.md` explains them.

    Attributes:
        roles: operator -> the roles it may have, of ROLES (see targets/ort-cpu.toml).
        reduced_range: weights keep to 7 bits.
        vnni: the rules hold only on processors with VNNI.
        float_bias: biases stay float instead of int32 at scale input * weight.
        keep_clips: Relu and Clip stay in the graph beside the grid that makes them redundant.
        everything: tensors outside integer regions and the graph's outputs get grids, too.
        requantizes: the runtime quantizes float layers between integers by itself, badly; they need protection.
        linear_in_floats: a Resize that interpolates has no integer kernel, one that repeats elements has.
        no_kernel: what is known of types other than int8 and uint8; where this is not empty they are refused with it.
        minimum_opset, per_channel_opset: of QuantizeLinear as the runtime wants it.
        minimum_opsets: operator -> the opset from which the runtime has an integer kernel for it.
    """

    name: str
    description: str = ""
    activation_type: str = "uint8"
    activation_symmetric: bool = False
    weight_type: str = "int8"
    per_channel: bool = True
    reduced_range: bool = False
    vnni: bool = False
    float_bias: bool = False
    keep_clips: bool = False
    everything: bool = False
    requantizes: bool = False
    linear_in_floats: bool = False
    no_kernel: str = ""
    minimum_opset: int = 10
    per_channel_opset: int = 13
    roles: Mapping[str, frozenset[str]] = field(default_factory=dict)
    minimum_opsets: Mapping[str, int] = field(default_factory=dict)

    def has(self, op_type: str, role: str, opset: int) -> bool:
        """Whether an operator at this opset has `role`."""
        return role in self.roles.get(op_type, ()) and opset >= self.minimum_opsets.get(op_type, 1)

    def with_types(
        self, activation_type: str | None, weight_type: str | None, per_channel: bool | None, reduced_range: bool | None
    ) -> Target:
        """The target with some of its defaults replaced; None keeps one.

        Raises:
            UsageError: a type is not one of ACTIVATION_TYPES or WEIGHT_TYPES ("quint8" and "QUInt8" mean "uint8").
        """
        changes: dict[str, Any] = {}
        if activation_type is not None:
            changes["activation_type"] = check_type("activation_type", activation_type, ACTIVATION_TYPES)
            changes["activation_symmetric"] = self.activation_symmetric
        if weight_type is not None:
            changes["weight_type"] = check_type("weight_type", weight_type, WEIGHT_TYPES)
        if self.no_kernel:
            for option in ("activation_type", "weight_type"):
                if changes.get(option, "int8") not in ("int8", "uint8"):
                    raise UsageError(
                        f"option '{option}' is '{changes[option]}', for which target '{self.name}' has no "
                        f"integer kernel: {self.no_kernel}; allowed: int8, uint8"
                    )
        if per_channel is not None:
            changes["per_channel"] = per_channel
        if reduced_range is not None:
            changes["reduced_range"] = reduced_range
        return replace(self, **changes)


def check_type(option: str, value: str, allowed: tuple[str, ...]) -> str:
    """An integer type by its ONNX name or by the name that ONNX Runtime's QuantType has for it."""
    plain = re.sub(r"^q(?=u?int)", "", value.lower())
    if plain not in allowed:
        raise UsageError(f"option '{option}' is '{value}'; allowed: {', '.join(allowed)}")
    return plain


def target_names() -> list[str]:
    """The names of the built-in targets."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_target(spec: str) -> Target:
    """A built-in target by name, or one's own by the path of a TOML file.

    Raises:
        UsageError: neither exists, or the file has an unknown key or a value of the wrong type.
    """
    if spec in target_names():
        return _read(FOLDER / f"{spec}.toml")
    path = Path(spec)
    if path.suffix == ".toml" or path.exists():
        return _read(path)
    raise UsageError(
        f"target '{spec}' is unknown{did_you_mean(spec, target_names())}; "
        "allowed: a built-in name or the path of a .toml file"
    )


def _read(path: Path) -> Target:
    table = toml.read(path, "target")
    base = load_target(_take(table, "inherits", str, path)) if "inherits" in table else Target(path.stem)
    roles = {op: set(found) for op, found in base.roles.items()}
    operators = _take(table, "operators", dict, path) if "operators" in table else {}
    for role, listed in operators.items():
        if role not in ROLES:
            raise UsageError(f"target '{path}': role '{role}' is unknown{did_you_mean(role, ROLES)}")
        if not isinstance(listed, list) or not all(isinstance(op, str) for op in listed):
            raise UsageError(f"target '{path}': '{role}' is {listed!r}; a list of operator names is allowed")
        for found in roles.values():  # a list replaces the inherited one
            found.discard(role)
        for op in listed:
            roles.setdefault(op, set()).add(role)
    known = {
        f.name: type(getattr(base, f.name)) for f in fields(Target) if f.name not in ("name", "roles", "minimum_opsets")
    }
    changes: dict[str, Any] = {}
    if "minimum_opsets" in table:
        changes["minimum_opsets"] = {**base.minimum_opsets, **_take(table, "minimum_opsets", dict, path)}
    for key in list(table):
        if key not in known:
            raise UsageError(f"target '{path}': '{key}' is unknown{did_you_mean(key, known)}")
        changes[key] = _take(table, key, known[key], path)
    made = replace(base, name=path.stem, roles={op: frozenset(found) for op, found in roles.items()}, **changes)
    check_type("activation_type", made.activation_type, ACTIVATION_TYPES)
    check_type("weight_type", made.weight_type, WEIGHT_TYPES)
    return made


def _take(table: dict[str, Any], key: str, kind: type, path: Path) -> Any:
    value = table.pop(key)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UsageError(f"target '{path}': '{key}' is {value!r}; a value of type {kind.__name__} is allowed")
    return value


@functools.cache
def has_vnni() -> bool:
    """Whether this processor multiplies u8 by s8 without saturating (or is not an x86, where the question is moot)."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return True  # outside Linux a recent machine is assumed; older ones have the target ort-cpu-avx2
    flags = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return flags is None or bool(re.search(r"\b(avx512_vnni|avx_vnni|amx_int8)\b", flags[1]))


__all__ = [
    "ACTIVATION_TYPES",
    "ROLES",
    "WEIGHT_TYPES",
    "Target",
    "check_type",
    "has_vnni",
    "load_target",
    "target_names",
]
