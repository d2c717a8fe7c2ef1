"""ML instance types: what a name such as ``ml.m5.xlarge`` gives a worker.

Owns the rule table family x size -> vCPUs, memory and accelerators; refuses names outside it.
:func:`instance_type_of` is the way in.  A vCPU count says how many threads a model may use; memory is
the limit the runtime enforces.

Source: AWS's public EC2 instance tables for the families of botocore's ProductionVariantInstanceType,
TransformInstanceType and ProcessingInstanceType.  ``g7`` is extrapolated from ``g6`` and ``g7e``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

_GIB = 1024**3

# Sizes are multiples of "xlarge" = 4 vCPUs in every family; the exceptions stand in _VCPUS.
_SMALL = {"medium": 1, "large": 2, "xlarge": 4}

_VCPUS = {
    "t2.medium": 2,
    "t3.medium": 2,
    "c4.8xlarge": 36,
    "p5.4xlarge": 16,
}

# GiB of memory per vCPU.
_MEMORY_PER_VCPU: dict[float, str] = {
    1.875: "c4",
    2: "c5 c5d c6i c6in c6g c6gd c6gn c7g c7i c7i-flex c8g c8i c8i-flex inf1",
    4: "t2 t3 m4 m5 m5d m6i m6g m6gd m7i m7i-flex m8g m8i m8i-flex g4dn g5 g6 g7 trn1 trn1n inf2",
    7.625: "p2 p3",
    8: "r5 r5d r6i r6g r6gd r7i r7gd r8g r8i r8i-flex g6e g7e dl1",
}

# GiB of memory where the family's rule does not hold, or where the family has no rule.
_MEMORY_GIB: dict[str, float] = {
    "t2.medium": 4,
    "t2.large": 8,
    "t3.medium": 4,
    "t3.large": 8,
    "c4.8xlarge": 60,
    "g7e.12xlarge": 512,
    "g7e.24xlarge": 1024,
    "g7e.48xlarge": 2048,
    "p2.16xlarge": 732,
    "p4d.24xlarge": 1152,
    "p4de.24xlarge": 1152,
    "p5.4xlarge": 256,
    "p5.48xlarge": 2048,
    "p5e.48xlarge": 2048,
    "p5en.48xlarge": 2048,
    "p6-b200.48xlarge": 2048,
    "p6-b300.48xlarge": 4096,
    "p6e-gb200.36xlarge": 960,
    "trn2.48xlarge": 2048,
    "inf2.xlarge": 16,
}

# Accelerators by family and size; "*" is every size not named.
_ACCELERATORS: dict[str, dict[str, int]] = {
    "p2": {"xlarge": 1, "8xlarge": 8, "16xlarge": 16},
    "p3": {"2xlarge": 1, "8xlarge": 4, "16xlarge": 8},
    "p4d": {"*": 8},
    "p4de": {"*": 8},
    "p5": {"4xlarge": 1, "48xlarge": 8},
    "p5e": {"*": 8},
    "p5en": {"*": 8},
    "p6-b200": {"*": 8},
    "p6-b300": {"*": 8},
    "p6e-gb200": {"*": 4},
    "g4dn": {"*": 1, "12xlarge": 4},
    "g5": {"*": 1, "12xlarge": 4, "24xlarge": 4, "48xlarge": 8},
    "g6": {"*": 1, "12xlarge": 4, "24xlarge": 4, "48xlarge": 8},
    "g6e": {"*": 1, "12xlarge": 4, "24xlarge": 4, "48xlarge": 8},
    "g7": {"*": 1, "12xlarge": 2, "24xlarge": 4, "48xlarge": 8},
    "g7e": {"*": 1, "12xlarge": 2, "24xlarge": 4, "48xlarge": 8},
    "inf1": {"xlarge": 1, "2xlarge": 1, "6xlarge": 4, "24xlarge": 16},
    "inf2": {"xlarge": 1, "8xlarge": 1, "24xlarge": 6, "48xlarge": 12},
    "trn1": {"2xlarge": 1, "32xlarge": 16},
    "trn1n": {"*": 16},
    "trn2": {"*": 16},
    "dl1": {"*": 8},
}

_FAMILY_MEMORY = {family: gib for gib, families in _MEMORY_PER_VCPU.items() for family in families.split()}


@dataclass(frozen=True)
class InstanceType:
    """One instance type.

    Attributes:
        name: As in the API, ``ml.m5.xlarge``.
        accelerators: GPUs or AWS chips; a worker gets none of them unless the host has them.
    """

    name: str
    vcpus: int
    memory_gib: float
    accelerators: int

    @property
    def memory_bytes(self) -> int:
        return int(self.memory_gib * _GIB)


@lru_cache(maxsize=512)
def instance_type_of(name: str) -> InstanceType:
    """Look an instance type up.

    Args:
        name: ``ml.FAMILY.SIZE``.

    Raises:
        ValueError: no such type; the text says so.

    >>> instance_type_of("ml.c5.9xlarge")
    InstanceType(name='ml.c5.9xlarge', vcpus=36, memory_gib=72, accelerators=0)
    """
    prefix, _, rest = name.partition(".")
    family, _, size = rest.partition(".")
    vcpus = _VCPUS.get(rest) or _vcpus_of_size(size)
    known = family in _FAMILY_MEMORY or rest in _MEMORY_GIB
    if prefix != "ml" or vcpus is None or not known:
        raise ValueError(f"unknown instance type {name!r}: expected one such as ml.m5.large")
    memory_gib = _MEMORY_GIB.get(rest)
    if memory_gib is None:
        memory_gib = _FAMILY_MEMORY[family] * vcpus
    accelerators = _ACCELERATORS.get(family, {})
    return InstanceType(name, vcpus, memory_gib, accelerators.get(size, accelerators.get("*", 0)))


def _vcpus_of_size(size: str) -> int | None:
    """Return the vCPUs of a size, None when it is no size.

    >>> _vcpus_of_size("12xlarge"), _vcpus_of_size("huge")
    (48, None)
    """
    number = size.removesuffix("xlarge")
    if number != size and number.isascii() and number.isdigit():
        return 4 * int(number)
    return _SMALL.get(size)
