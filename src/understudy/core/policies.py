"""What a verdict is asked to prove: the primary metric, the guardrails, and how sure to be.

Owns the policy's words, defaults and checks.  Refuses a key it does not know, and says which.
Main functions: :func:`parse_policy`, :func:`read_policy`, :func:`default_policy`.

Effects are ratios for rates and latencies (1.1 is ten percent more) and differences in the metric's own unit
for means and model quality.  They are always written from the bad side: a margin of 2 lets errors be less
than double, and successes be more than half.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from itertools import pairwise
from typing import Any, TypeVar


class PolicyError(ValueError):
    """A policy that can't be used; the text names the key (wire: ValidationException, 400)."""


class Kind(StrEnum):
    """What PROMOTE means: no worse (deploy), or better in the primary metric too (experiment)."""

    DEPLOY = "deploy"
    EXPERIMENT = "experiment"


class Measure(StrEnum):
    """How a metric is counted, which decides how it is judged."""

    RATE = "rate"  # events of requests, or of units: the share e-process
    LATENCY = "latency"  # requests slower than thresholds fixed beforehand: the same, averaged
    MEAN = "mean"  # a number per unit: the linear bet
    QUALITY = "quality"  # a model's quality with its standard error: an asymptotic confidence sequence
    PAIRED = "paired"  # both models answered the same request; one alone was right: McNemar's form


class Mode(StrEnum):
    """Look at any time, or at a few planned times up to a declared number of requests."""

    ANYTIME = "anytime"
    HORIZON = "horizon"


CLOUDWATCH = "cloudwatch"  # the source of a metric that comes from PutMetricData
RATIO_MEASURES = frozenset({Measure.RATE, Measure.LATENCY, Measure.PAIRED})
# The levels of the early warning of latency, and the ratio of exceedances worth finding at each.
LATENCY_LEVELS = (0.5, 0.75, 0.9, 0.95, 0.99)
LATENCY_MDES = (1.2, 1.35, 1.5, 1.7, 2.0)
# Weight of the early warning beside the rule's own quantile: it finds what slows every answer twice as fast,
# and costs what slows the tail alone 1 % (a weight of 0.2: 6 %).
EARLY_WEIGHT = 0.05
# Weight of the absolute bound beside the ratio in the proof of no harm: it costs the ratio 2 % more requests.
ACCEPTABLE_WEIGHT = 0.05
# A bet is made on up to four times the MDE (on its logarithm): larger ratios, and numbers whose squares a
# float can't hold, would break the arithmetic of evidence; nobody needs them.
LARGEST_RATIO = 1e6
LARGEST_NUMBER = 1e15
LEAST_CLIP = 1e-15
LEAST_ALPHA = 1e-12


@dataclass(frozen=True)
class CloudWatchMetric:
    """A metric of PutMetricData: one datum of 0 or 1 for each request that was assigned at random.

    Its dimensions are EndpointName and VariantName, EndpointConfigName besides where two fleets serve, and
    ``dimensions``.

    Attributes:
        resolution_s: The data's StorageResolution, 1 or 60: what the store keeps apart.
        delay_s: So late data may come as a rule; a period counts when it is over for so long.
    """

    namespace: str
    metric_name: str
    dimensions: tuple[tuple[str, str], ...] = ()
    resolution_s: int = 60
    delay_s: float = 30.0

    def to_json(self) -> dict[str, Any]:
        """Render as a policy's keys."""
        return {"source": CLOUDWATCH, **asdict(self), "dimensions": dict(self.dimensions)}


@dataclass(frozen=True)
class MetricRule:
    """One metric of a policy.

    Attributes:
        metric: Its name in the evidence, e.g. ``error_rate``.
        measure: How it is counted.
        better: ``lower`` or ``higher``.
        mde: Smallest effect worth finding: a ratio above 1, or a difference above 0.
        margin: What "no worse" allows: a ratio above 1, or a difference above 0.
        tolerance: Harm begins above it: a ratio of at least 1, or a difference of at least 0.
        rope: KEEP when the effect is proven to be smaller than this, to either side; None for never.
        quantile: Of a latency, in (0, 1).
        threshold_us: Of a latency: the limit, microseconds; None takes the control's own quantile, before
            use.
        acceptable_rate: Of a rate: proven to be below it, it is no harm whatever the ratio; of pairs the
            share that disagrees, which bounds every difference of their quality.  None for no bound.
        every_request: Of a rate: bet on the requests without an event too; right above 5 %.
        clip: Of a mean: scores are cut to [-clip, clip], fixed before use.
        needs_labels: Counted from labels or outcomes that come later.
        warmup_s: Seconds left out after a variant's start.
        cloudwatch: Of a rate that is counted from PutMetricData; None for all others.
    """

    metric: str
    measure: Measure
    better: str = "lower"
    mde: float = 2.0
    margin: float = 2.0
    tolerance: float = 1.0
    rope: float | None = None
    quantile: float = 0.99
    threshold_us: float | None = None
    acceptable_rate: float | None = None
    every_request: bool = False
    clip: float | None = None
    needs_labels: bool = False
    warmup_s: float = 0.0
    cloudwatch: CloudWatchMetric | None = None

    def to_json(self) -> dict[str, Any]:
        """Render as a policy's keys."""
        rendered = asdict(self)
        del rendered["cloudwatch"]
        return rendered if self.cloudwatch is None else {**rendered, **self.cloudwatch.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> MetricRule:
        """Read what :meth:`to_json` wrote."""
        given = {**data, "measure": Measure(data["measure"])}
        if given.pop("source", None) is None:
            return cls(**given)
        of_series = {one.name: given.pop(one.name) for one in fields(CloudWatchMetric)}
        of_series["dimensions"] = tuple(sorted(of_series["dimensions"].items()))
        return cls(**given, cloudwatch=CloudWatchMetric(**of_series))

    @property
    def neutral(self) -> float:
        """The value of no effect: 1 for ratios, 0 for differences."""
        return 1.0 if self.measure in RATIO_MEASURES else 0.0


@dataclass(frozen=True)
class Ramp:
    """How the autopilot raises a treatment's share once it is proven.

    Attributes:
        percents: The treatment's share of what both arms get, rising, the last 100.
        minimum_requests: Of the treatment (users of a sticky endpoint), at each share before the next.
        minimum_s: Seconds at each share before the next.
    """

    percents: tuple[float, ...] = (5.0, 10.0, 25.0, 50.0, 100.0)
    minimum_requests: int = 100
    minimum_s: float = 10.0


@dataclass(frozen=True)
class Bandit:
    """How the autopilot shares traffic among variants by how likely each is the best.

    Attributes:
        floor: Least share of every variant; at most half of an equal share.
        every_s: Seconds between two changes of weights at least; a tenth of the test's age where that is
            longer, so that stages stay few.
    """

    floor: float = 0.1
    every_s: float = 60.0


@dataclass(frozen=True)
class Policy:
    """What must be shown before a change is promoted, kept out, or taken back.

    Attributes:
        name: For people, e.g. ``deploy/v3``.
        kind: Non-inferiority (deploy) or superiority (experiment).
        primary: The metric to win in; an experiment has one, a deployment has none.
        guardrails: What must not get worse.
        alpha_promote: Probability of a wrong PROMOTE at most.
        alpha_rollback: Probability of a wrong ROLLBACK at most, over all guardrails and looks together.
        label_window_s: Only exposures older than this count in metrics that need labels.
        minimum_requests: Of each arm, before PROMOTE or KEEP.
        mode: When is looked at the primary metric.
        horizon_requests: Of both arms, in mode ``horizon``.
        looks: Planned looks in mode ``horizon``.
        ramp, bandit: What the autopilot does with verdicts; nothing is decided by them.
    """

    name: str
    kind: Kind
    primary: MetricRule | None = None
    guardrails: tuple[MetricRule, ...] = field(default=())
    alpha_promote: float = 0.05
    alpha_rollback: float = 0.01
    label_window_s: float = 0.0
    minimum_requests: int = 100
    mode: Mode = Mode.ANYTIME
    horizon_requests: int | None = None
    looks: int = 5
    ramp: Ramp = Ramp()
    bandit: Bandit = Bandit()

    @property
    def rules(self) -> tuple[MetricRule, ...]:
        """Every metric: the primary one first."""
        return self.guardrails if self.primary is None else (self.primary, *self.guardrails)

    def to_json(self) -> dict[str, Any]:
        """Render so that :func:`parse_policy` reads it back; defaults of the autopilot are left out."""
        rendered = {
            **asdict(self),
            "primary": None if self.primary is None else self.primary.to_json(),
            "guardrails": tuple(one.to_json() for one in self.guardrails),
        }
        for name, default in (("ramp", Ramp()), ("bandit", Bandit())):
            if getattr(self, name) == default:
                del rendered[name]
        return rendered

    def decides_as(self, other: Policy) -> bool:
        """Tell whether another policy decides the same, whatever is done about it."""
        return replace(self, ramp=other.ramp, bandit=other.bandit) == other


_ERRORS = MetricRule("error_rate", Measure.RATE, mde=3.0, margin=2.0, tolerance=1.1)
_KNOWN = {
    "error_rate": _ERRORS,
    "shadow_agreement": MetricRule(
        "shadow_agreement", Measure.PAIRED, better="higher", mde=1.5, margin=1.5, needs_labels=True
    ),
    "conversion": MetricRule(
        "conversion",
        Measure.RATE,
        better="higher",
        mde=1.1,
        margin=1.1,
        every_request=True,
        needs_labels=True,
    ),
    **{
        name: MetricRule(
            name, Measure.QUALITY, better=better, mde=0.01, margin=0.01, tolerance=0.0, needs_labels=True
        )
        for name, better in (
            ("accuracy", "higher"),
            ("precision", "higher"),
            ("recall", "higher"),
            ("f1", "higher"),
            ("auc", "higher"),
            ("log_loss", "lower"),
            ("squared_error", "lower"),
        )
    },
}


def _latency(quantile: float) -> MetricRule:
    name = f"latency_p{quantile * 100:g}"
    # Caches fill and code compiles in a fleet's first minute, which the other fleet had long ago.
    return MetricRule(name, Measure.LATENCY, tolerance=1.1, quantile=quantile, warmup_s=60.0)


def known_rule(metric: str) -> MetricRule | None:
    """Return the defaults of a metric that is known by name; ``latency_p99`` and its kin are.

    >>> known_rule("latency_p95").quantile, known_rule("basket")
    (0.95, None)
    """
    if metric.startswith("latency_p"):
        try:
            quantile = float(metric.removeprefix("latency_p")) / 100.0
        except ValueError:
            return None
        return replace(_latency(quantile), metric=metric) if 0.0 < quantile < 1.0 else None
    return _KNOWN.get(metric)


def default_policy(kind: Kind | str = Kind.DEPLOY) -> Policy:
    """Return what is proven when nobody said what to prove.

    Raises:
        PolicyError: no such kind.
    """
    guardrails = (replace(_ERRORS, acceptable_rate=0.001), _latency(0.99))
    if _choice(Kind, kind, "kind") is Kind.DEPLOY:
        return Policy("deploy/default", Kind.DEPLOY, guardrails=guardrails)
    return Policy(
        "experiment/default",
        Kind.EXPERIMENT,
        primary=_KNOWN["conversion"],
        guardrails=guardrails,
        label_window_s=86_400.0,
        minimum_requests=1_000,
    )


def shadow_policy() -> Policy:
    """Return what is proven of a shadow when nobody said what to prove: no worse, by labels or agreement."""
    return Policy(
        "shadow/default",
        Kind.DEPLOY,
        guardrails=(
            replace(_KNOWN["shadow_agreement"], acceptable_rate=0.01),
            replace(_ERRORS, acceptable_rate=0.001),
        ),
    )


def read_policy(text: str) -> Policy:
    """Read TOML, or JSON when the text begins with a brace.

    Raises:
        PolicyError: neither, or a key is unknown, missing or out of range.
    """
    try:
        data = json.loads(text) if text.lstrip().startswith("{") else tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # both parsers' errors are ValueErrors
        raise PolicyError(f"the policy can't be read: {error}") from None
    return parse_policy(data)


def parse_policy(data: Any) -> Policy:
    """Check a policy and fill in what it leaves out.

    Raises:
        PolicyError: names the key.

    >>> parse_policy({"guardrails": [{"metric": "error_rate", "margin": 1.5}]}).guardrails[0].mde
    3.0
    """
    given = _table(data, "the policy")
    _known_keys(given, {one.name for one in fields(Policy)}, "")
    kind = _choice(Kind, given.get("kind", Kind.DEPLOY), "kind")
    base = default_policy(kind)
    policy = replace(
        base,
        name=_text(given.get("name", base.name), "name"),
        primary=base.primary
        if "primary" not in given
        else (None if given["primary"] is None else _rule(given["primary"], "primary")),
        guardrails=base.guardrails if "guardrails" not in given else _rules(given["guardrails"]),
        alpha_promote=_number(given, "alpha_promote", base.alpha_promote, least=LEAST_ALPHA, below=0.5),
        alpha_rollback=_number(given, "alpha_rollback", base.alpha_rollback, least=LEAST_ALPHA, below=0.5),
        label_window_s=_number(given, "label_window_s", base.label_window_s, least=0.0),
        minimum_requests=_whole(given, "minimum_requests", base.minimum_requests, 0),
        mode=_choice(Mode, given.get("mode", base.mode), "mode"),
        horizon_requests=None
        if given.get("horizon_requests") is None
        else _whole(given, "horizon_requests", 0, 1),
        looks=_whole(given, "looks", base.looks, 1),
        ramp=_ramp(given.get("ramp", {})),
        bandit=_bandit(given.get("bandit", {})),
    )
    return _consistent(policy)


def _consistent(policy: Policy) -> Policy:
    names = [rule.metric for rule in policy.rules]
    if len(set(names)) != len(names):
        raise PolicyError("guardrails: a metric is named twice")
    if policy.kind is Kind.EXPERIMENT and policy.primary is None:
        raise PolicyError("primary: an experiment needs a primary metric")
    if policy.kind is Kind.DEPLOY and policy.primary is not None:
        raise PolicyError("primary: a deployment has guardrails only; kind = experiment has a primary metric")
    if not policy.rules:
        raise PolicyError("guardrails: there is nothing to prove; name at least one metric")
    if policy.mode is Mode.HORIZON:
        if policy.horizon_requests is None:
            raise PolicyError("horizon_requests: mode = horizon needs it")
        if policy.primary is None or policy.primary.measure is not Measure.RATE:
            raise PolicyError("mode: horizon needs a primary metric that is a rate")
        if policy.looks > 20:
            raise PolicyError("looks: at most 20")
    return policy


def _ramp(data: Any) -> Ramp:
    """Read ``ramp``: a list of percents, or a table."""
    given = {"percents": data} if isinstance(data, list | tuple) else _table(data, "ramp")
    base = Ramp()
    _known_keys(given, {one.name for one in fields(Ramp)}, "ramp.")
    percents = given.get("percents", base.percents)
    if not isinstance(percents, list | tuple) or not percents:
        raise PolicyError("ramp.percents: a list of numbers is expected")
    steps = tuple(
        _number({f"percents[{at}]": one}, f"percents[{at}]", None, "ramp", above=0.0)
        for at, one in enumerate(percents)
    )
    if any(low >= high for low, high in pairwise(steps)) or steps[-1] != 100.0:
        raise PolicyError("ramp.percents: must rise, and end with 100")
    return Ramp(
        steps,
        _whole(given, "minimum_requests", base.minimum_requests, 0, "ramp"),
        _number(given, "minimum_s", base.minimum_s, "ramp", least=0.0),
    )


def _bandit(data: Any) -> Bandit:
    given, base = _table(data, "bandit"), Bandit()
    _known_keys(given, {one.name for one in fields(Bandit)}, "bandit.")
    return Bandit(
        _number(given, "floor", base.floor, "bandit", above=0.0, below=0.5),
        _number(given, "every_s", base.every_s, "bandit", least=1.0),
    )


def _rules(data: Any) -> tuple[MetricRule, ...]:
    if not isinstance(data, list | tuple):
        raise PolicyError("guardrails: a list of tables is expected")
    return tuple(_rule(one, f"guardrails[{at}]") for at, one in enumerate(data))


def _rule(data: Any, place: str) -> MetricRule:
    given = _table(data, place)
    _known_keys(given, _RULE_KEYS, f"{place}.")
    if "metric" not in given:
        raise PolicyError(f"{place}.metric: missing")
    metric = _text(given["metric"], f"{place}.metric")
    base = known_rule(metric)
    if base is None and "measure" not in given:
        raise PolicyError(f"{place}.measure: {metric} is not known by name; say one of {', '.join(Measure)}")
    measure = _choice(Measure, given.get("measure", base.measure if base else None), f"{place}.measure")
    if base is None or base.measure is not measure:
        base = _bare(metric, measure)
    ratio = measure in RATIO_MEASURES
    most = LARGEST_RATIO if ratio else LARGEST_NUMBER
    rule = MetricRule(
        metric=metric,
        measure=measure,
        better=_better(given.get("better", base.better), place),
        mde=_number(given, "mde", base.mde, place, above=1.0 if ratio else 0.0, most=most),
        margin=_number(given, "margin", base.margin, place, above=1.0 if ratio else 0.0, most=most),
        tolerance=_number(given, "tolerance", base.tolerance, place, least=1.0 if ratio else 0.0),
        rope=None
        if given.get("rope") is None
        else _number(given, "rope", 0.0, place, above=1.0 if ratio else 0.0),
        quantile=_number(given, "quantile", base.quantile, place, above=0.0, below=1.0),
        threshold_us=None
        if given.get("threshold_us") is None
        else _number(given, "threshold_us", 0.0, place, above=0.0),
        acceptable_rate=None
        if given.get("acceptable_rate", base.acceptable_rate) is None
        else _number(given, "acceptable_rate", base.acceptable_rate, place, above=0.0, below=1.0),
        every_request=_flag(given.get("every_request", base.every_request), f"{place}.every_request"),
        clip=None
        if given.get("clip") is None
        else _number(given, "clip", 0.0, place, least=LEAST_CLIP, most=LARGEST_NUMBER),
        needs_labels=_flag(given.get("needs_labels", base.needs_labels), f"{place}.needs_labels"),
        warmup_s=_number(given, "warmup_s", base.warmup_s, place, least=0.0),
        cloudwatch=_cloudwatch(given, metric, measure, place),
    )
    return _consistent_rule(rule, place)


def _bare(metric: str, measure: Measure) -> MetricRule:
    """Return the defaults of a metric that is known by its measure only."""
    if measure is Measure.LATENCY:
        return replace(_latency(0.99), metric=metric)
    if measure is Measure.PAIRED:
        return replace(_KNOWN["shadow_agreement"], metric=metric)
    if measure is Measure.RATE:
        return MetricRule(metric, measure)
    return MetricRule(metric, measure, better="higher", mde=0.01, margin=0.01, tolerance=0.0)


def _cloudwatch(
    given: Mapping[str, Any], metric: str, measure: Measure, place: str
) -> CloudWatchMetric | None:
    """Read where a metric of PutMetricData is found; None of a metric that is counted elsewhere."""
    if given.get("source") is None:
        for key in _SERIES_KEYS:
            if given.get(key) is not None:
                raise PolicyError(f'{place}.{key}: only of a metric with source = "{CLOUDWATCH}"')
        return None
    if given["source"] != CLOUDWATCH:
        raise PolicyError(
            f'{place}.source: "{CLOUDWATCH}" is expected; leave it out for what the server counts itself'
            " and for outcomes"
        )
    if measure is not Measure.RATE:
        raise PolicyError(
            f"{place}.measure: of metrics of PutMetricData only a rate can be judged (a 0 or 1 for each"
            " request): of other numbers the store keeps sums and rounded distributions, not the values;"
            " report them as outcomes (POST /understudy/v1/endpoints/NAME/outcomes)"
        )
    if metric == "error_rate":
        raise PolicyError(f"{place}.metric: error_rate is counted by the server; choose another name")
    dimensions = _table(given.get("dimensions") or {}, f"{place}.dimensions")
    if len(dimensions) > _MOST_DIMENSIONS:
        raise PolicyError(f"{place}.dimensions: at most {_MOST_DIMENSIONS}")
    for name, value in dimensions.items():
        _printable(name, 255, f"{place}.dimensions")
        _printable(value, 1024, f"{place}.dimensions.{name}")
        if name in _OWN_DIMENSIONS:
            raise PolicyError(f"{place}.dimensions.{name}: is that of the arm that is counted")
    resolution_s = given.get("resolution_s", 60)
    if resolution_s not in (1, 60) or isinstance(resolution_s, bool):
        raise PolicyError(f"{place}.resolution_s: 1 or 60 is expected, the data's StorageResolution")
    return CloudWatchMetric(
        namespace=_printable(given.get("namespace"), 255, f"{place}.namespace"),
        metric_name=_printable(given.get("metric_name", metric), 255, f"{place}.metric_name"),
        dimensions=tuple(sorted(dimensions.items())),
        resolution_s=int(resolution_s),
        delay_s=_number(given, "delay_s", 30.0, place, least=0.0, most=3600.0),
    )


def _printable(value: Any, longest: int, key: str) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > longest:
        raise PolicyError(f"{key}: a text of 1 to {longest} characters is expected")
    if not value.isascii() or not value.isprintable():
        raise PolicyError(f"{key}: only printable ASCII characters are expected, as in PutMetricData")
    return value


def _consistent_rule(rule: MetricRule, place: str) -> MetricRule:
    if rule.tolerance >= rule.margin:
        raise PolicyError(
            f"{place}.tolerance: {rule.tolerance:g} is not below the margin {rule.margin:g};"
            " a change between them would be both harmful and no worse"
        )
    if rule.measure is Measure.LATENCY and rule.better != "lower":
        raise PolicyError(f"{place}.better: a latency is better lower")
    if rule.measure is Measure.MEAN and rule.clip is None:
        raise PolicyError(
            f"{place}.clip: a mean needs the largest score that counts, e.g. the 99.9th percentile"
        )
    lower_rate = rule.measure is Measure.RATE and rule.better == "lower"
    if rule.acceptable_rate is not None and not lower_rate and rule.measure is not Measure.PAIRED:
        raise PolicyError(f"{place}.acceptable_rate: only of a rate that is better lower, or of pairs")
    return rule


def _table(data: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        raise PolicyError(f"{place}: a table is expected")
    return data


def _known_keys(given: Mapping[str, Any], known: set[str], prefix: str) -> None:
    for key in given:
        if key not in known:
            raise PolicyError(f"{prefix}{key}: unknown; known are {', '.join(sorted(known))}")


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str) or not value or len(value) > 128:
        raise PolicyError(f"{key}: a text of 1 to 128 characters is expected")
    return value


def _flag(value: Any, key: str) -> bool:
    if not isinstance(value, bool):
        raise PolicyError(f"{key}: true or false is expected")
    return value


def _better(value: Any, place: str) -> str:
    if value not in ("lower", "higher"):
        raise PolicyError(f"{place}.better: lower or higher is expected")
    return str(value)


_SERIES_KEYS = frozenset(one.name for one in fields(CloudWatchMetric))
_RULE_KEYS = {one.name for one in fields(MetricRule)} - {"cloudwatch"} | _SERIES_KEYS | {"source"}
_OWN_DIMENSIONS = ("EndpointName", "VariantName", "EndpointConfigName")
_MOST_DIMENSIONS = 27  # CloudWatch's 30, less these
_E = TypeVar("_E", bound=StrEnum)


def _choice(kind: type[_E], value: Any, key: str) -> _E:
    try:
        return kind(value)
    except ValueError:
        raise PolicyError(f"{key}: {value!r} is none of {', '.join(kind)}") from None


def _number(
    given: Mapping[str, Any],
    key: str,
    default: float | None,
    place: str = "",
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float = LARGEST_NUMBER,
) -> float:
    value = given.get(key, default)
    name = f"{place}.{key}" if place else key
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise PolicyError(f"{name}: a number is expected")
    if value > most:  # whole numbers of JSON may be too large for a float
        raise PolicyError(f"{name}: must be at most {most:g}")
    if above is not None and value <= above:
        raise PolicyError(f"{name}: must be above {above:g}")
    if least is not None and value < least:
        raise PolicyError(f"{name}: must be at least {least:g}")
    if below is not None and value >= below:
        raise PolicyError(f"{name}: must be below {below:g}, not {value:g}")
    return float(value)


def _whole(given: Mapping[str, Any], key: str, default: int, least: int, place: str = "") -> int:
    value = given.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= LARGEST_NUMBER:
        key = f"{place}.{key}" if place else key
        raise PolicyError(f"{key}: a whole number from {least} to {LARGEST_NUMBER:g} is expected")
    return value
