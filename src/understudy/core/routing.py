"""The routing table and the choices made from it.

Owns :class:`RoutingTable`, immutable and replaced whole, :func:`choose_variant` and :func:`shadow_share`.
Refuses tables without a positive weight per serving endpoint only where a choice is asked of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from understudy.core.errors import ValidationError


@dataclass(frozen=True)
class InstanceRoute:
    """One instance a request can go to.

    Attributes:
        instance_id: Unique for ever: ``ENDPOINT/VARIANT/FLEET/NUMBER-INCARNATION``.
        address: Unix socket path relative to the run directory (``w/ab12.sock``) or ``host:port``.
    """

    instance_id: str
    address: str


@dataclass(frozen=True)
class VariantRoute:
    """One variant of an endpoint as routers see it.

    Attributes:
        weight: Non-negative; 0.0 gets exactly none.
        config_name: For the EndpointConfigName dimension.
        timeout_s: How long the model may take (60 as on AWS).
        fleet_id: Whose instances they are: blue's or green's.
        wanted: How many instances there should be; fewer are named while some are missing.
    """

    name: str
    weight: float
    config_name: str
    instances: tuple[InstanceRoute, ...] = ()
    timeout_s: float = 60.0
    containers: tuple[str, ...] = ("primary",)
    fleet_id: str = ""
    wanted: int = 1


@dataclass(frozen=True)
class GreenRoute:
    """The second of two fleets that answer an endpoint's requests while one takes over from the other.

    Attributes:
        share: Probability in [0, 1] that it answers a request, with a TargetVariant or without; drawn
            before the variant is chosen by the fleet's own weights.
        variants: Usually of the same names as the other fleet's, under another configuration.
    """

    share: float
    variants: tuple[VariantRoute, ...]


@dataclass(frozen=True)
class ShadowRoute:
    """One shadow variant: it gets copies of production requests and answers nobody.

    Attributes:
        share: Probability in [0, 1] that a production request is copied (:func:`shadow_share`); drawn
            per request, independently of every other shadow.
        config_name: For the EndpointConfigName dimension.
        timeout_s: How long the model may take.
    """

    name: str
    share: float
    config_name: str
    instances: tuple[InstanceRoute, ...] = ()
    timeout_s: float = 60.0
    containers: tuple[str, ...] = ("primary",)


@dataclass(frozen=True)
class CaptureRoute:
    """What is kept of an endpoint's requests and answers, production's and shadows' alike.

    Attributes:
        destination: ``s3://bucket/prefix``, without a slash at the end.
        sampling_percent: 0 to 100.
        inputs: Requests' bodies are kept.
        outputs: Answers' bodies are kept.
        csv_types: Content types kept as text marked CSV.
        json_types: Content types kept as text marked JSON; whatever else is kept as BASE64.
        durable: An answer leaves after its record is on disk.
    """

    destination: str
    sampling_percent: float
    inputs: bool
    outputs: bool
    csv_types: tuple[str, ...] = ()
    json_types: tuple[str, ...] = ()
    durable: bool = False


@dataclass(frozen=True)
class EndpointRoute:
    """One endpoint as routers see it.

    Attributes:
        variants: Production variants: who may answer.
        shadows: Who gets copies.
        capture: None: nothing is kept.
        noise_share: Probability in [0, 1] that a captured request is sent to its variant a second time.
        stage: Number of the stage (``core.stages``) that this route belongs to; 0: of none.
        sticky: What the endpoint's units are (``core.assignment``); empty: every request is drawn.
        assignments: Which requests are logged with their assignment: ``all``, ``identified`` (those with an
            InferenceId) or ``off``.
        green: A second fleet that answers a share of the requests; None: there is one.
    """

    name: str
    variants: tuple[VariantRoute, ...]
    shadows: tuple[ShadowRoute, ...] = ()
    capture: CaptureRoute | None = None
    noise_share: float = 0.0
    stage: int = 0
    sticky: str = ""
    assignments: str = "off"
    green: GreenRoute | None = None

    def instances(self) -> Iterator[InstanceRoute]:
        """Yield every instance that gets requests or copies of them."""
        for variant in self.variants:
            yield from variant.instances
        for variant in self.green.variants if self.green is not None else ():
            yield from variant.instances
        for shadow in self.shadows:
            yield from shadow.instances


def noise_name(variant_name: str) -> str:
    """Name what a variant's second answers are counted and captured under.

    >>> noise_name("AllTraffic")
    'AllTraffic-noise'
    """
    return f"{variant_name}-noise"


def noise_routes(route: EndpointRoute) -> dict[str, ShadowRoute]:
    """Say where second copies go, by variant: to its own instances, as if they were a shadow."""
    if not route.noise_share > 0.0:
        return {}
    return {
        variant.name: ShadowRoute(
            name=noise_name(variant.name),
            share=route.noise_share,
            config_name=variant.config_name,
            instances=variant.instances,
            timeout_s=variant.timeout_s,
            containers=variant.containers,
        )
        for variant in route.variants
    }


@dataclass(frozen=True)
class RoutingTable:
    """All routes; a newer table has a larger version."""

    version: int = 0
    endpoints: dict[str, EndpointRoute] = field(default_factory=dict)


def choose_variant(route: EndpointRoute, draw: float, target_variant: str | None = None) -> VariantRoute:
    """Pick the production variant that answers one request.

    While two fleets serve, one is picked first, by :attr:`GreenRoute.share`; what is left of the draw
    chooses in it.  A target wins over weights, also at weight 0.0; otherwise variant *i* is chosen with
    probability ``weights[i] / sum(weights)``.  A weight of 0.0 is a weight.

    Args:
        route: The endpoint's variants; at least one weight is > 0 unless a target is given.
        draw: Uniform in [0, 1), drawn by the caller.
        target_variant: ``X-Amzn-SageMaker-Target-Variant``, if sent.
    Raises:
        ValidationError: the target is no variant, or no weight is positive.

    >>> blue, green = VariantRoute("blue", 3.0, "c"), VariantRoute("green", 1.0, "c")
    >>> route = EndpointRoute("e", (blue, green))
    >>> choose_variant(route, 0.74).name, choose_variant(route, 0.76).name
    ('blue', 'green')
    >>> shifting = EndpointRoute("e", (blue,), green=GreenRoute(0.25, (green,)))
    >>> choose_variant(shifting, 0.24).name, choose_variant(shifting, 0.25).name
    ('green', 'blue')
    """
    variants, draw = _fleet_of(route, draw)
    if target_variant is not None:
        for variant in variants:
            if variant.name == target_variant:
                return variant
        raise ValidationError(f"Variant {target_variant} not found for Endpoint {route.name}.")
    total = sum(variant.weight for variant in variants)
    if not total > 0.0:
        raise ValidationError(
            f"Endpoint {route.name} has no variant with a weight above 0: set TargetVariant."
        )
    point = draw * total
    last = None
    for variant in variants:
        if variant.weight > 0.0:
            last = variant
            if point < variant.weight:
                return variant
            point -= variant.weight
    assert last is not None  # total > 0: some weight was positive
    return last


def _fleet_of(route: EndpointRoute, draw: float) -> tuple[tuple[VariantRoute, ...], float]:
    """Pick a fleet, and scale what is left of the draw back to [0, 1]."""
    green = route.green
    if green is None:
        return route.variants, draw
    if draw < green.share:
        return green.variants, draw / green.share
    return route.variants, (draw - green.share) / (1.0 - green.share)


def weighted_variants(route: EndpointRoute) -> list[tuple[VariantRoute, float]]:
    """List who may answer a request that is not targeted, with weights that hold among all of them.

    >>> blue, green = VariantRoute("v", 3.0, "c1"), VariantRoute("v", 3.0, "c2")
    >>> shifting = EndpointRoute("e", (blue,), green=GreenRoute(0.25, (green,)))
    >>> [weight for _, weight in weighted_variants(shifting)]
    [0.75, 0.25]
    """
    if route.green is None:
        return [(one, one.weight) for one in route.variants]
    found = []
    fleets = ((route.variants, 1.0 - route.green.share), (route.green.variants, route.green.share))
    for variants, share in fleets:
        total = sum(one.weight for one in variants)
        found += [(one, share * one.weight / total if total > 0.0 else 0.0) for one in variants]
    return found


def shadow_share(shadow_weight: float, production_weight: float) -> float:
    """Say which share of production's requests a shadow gets: ``min(1, shadow / production)``.

    Args:
        shadow_weight: The shadow's weight, >= 0.
        production_weight: Sum of the production variants' weights, >= 0.

    Source: InitialVariantWeight of ShadowProductionVariants in CreateEndpointConfig's documentation.

    >>> shadow_share(1.0, 2.0), shadow_share(3.0, 2.0), shadow_share(0.0, 0.0), shadow_share(1.0, 0.0)
    (0.5, 1.0, 0.0, 1.0)
    """
    if not shadow_weight > 0.0:
        return 0.0
    if not production_weight > shadow_weight:
        return 1.0
    return shadow_weight / production_weight
