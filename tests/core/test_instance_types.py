"""The table of instance types is total over botocore's enums and right where AWS publishes figures."""

from __future__ import annotations

import botocore.session
import pytest

from understudy.core.instance_types import instance_type_of


@pytest.mark.parametrize(
    "shape", ["ProductionVariantInstanceType", "TransformInstanceType", "ProcessingInstanceType"]
)
def test_every_type_botocore_knows_has_figures(shape: str) -> None:
    model = botocore.session.Session().get_service_model("sagemaker")
    names = model.shape_for(shape).enum
    assert len(names) > 100
    for name in names:
        found = instance_type_of(name)
        assert found.name == name
        assert 1 <= found.vcpus <= 384
        assert 1 <= found.memory_gib / found.vcpus <= 32
        assert found.memory_bytes == found.memory_gib * 1024**3
        gpus = name.split(".")[1].startswith(("p", "g", "inf", "trn", "dl"))
        assert (found.accelerators > 0) == gpus, name


@pytest.mark.parametrize(
    ("name", "vcpus", "memory_gib", "accelerators"),
    [
        ("ml.t2.medium", 2, 4, 0),
        ("ml.m5.large", 2, 8, 0),
        ("ml.m4.16xlarge", 64, 256, 0),
        ("ml.c4.large", 2, 3.75, 0),
        ("ml.c4.8xlarge", 36, 60, 0),
        ("ml.c5.18xlarge", 72, 144, 0),
        ("ml.r8g.medium", 1, 8, 0),
        ("ml.r5.24xlarge", 96, 768, 0),
        ("ml.p3.2xlarge", 8, 61, 1),
        ("ml.p2.16xlarge", 64, 732, 16),
        ("ml.g4dn.12xlarge", 48, 192, 4),
        ("ml.g4dn.16xlarge", 64, 256, 1),
        ("ml.g5.48xlarge", 192, 768, 8),
        ("ml.p4d.24xlarge", 96, 1152, 8),
        ("ml.inf1.6xlarge", 24, 48, 4),
        ("ml.inf2.24xlarge", 96, 384, 6),
        ("ml.trn1.32xlarge", 128, 512, 16),
    ],
)
def test_published_figures(name: str, vcpus: int, memory_gib: float, accelerators: int) -> None:
    found = instance_type_of(name)
    assert (found.vcpus, found.memory_gib, found.accelerators) == (vcpus, memory_gib, accelerators)


@pytest.mark.parametrize(
    "name", ["", "ml", "m5.large", "ml.m5", "ml.m5.huge", "ml.zz9.large", "ml.m5.xlarge.x"]
)
def test_others_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="unknown instance type"):
        instance_type_of(name)
