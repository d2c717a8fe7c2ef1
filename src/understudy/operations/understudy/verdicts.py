"""Verdicts over REST: what is decided of an endpoint's arms, under which policy, and deciding it again.

Owns which judgement is meant when several are there, and what of a policy is refused.  A verdict that is told
is kept, so that its ``replay`` can be asked for.  Main functions: :func:`get_verdict`, :func:`post_verdict`,
:func:`replay`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from understudy.analysis.planning import plan
from understudy.analysis.routed import ERRORS
from understudy.analysis.verdicts import replay_verdict
from understudy.capture.exposures import is_of_outcomes
from understudy.capture.judging import Judge, Judged, readable
from understudy.capture.labelled_arms import LabelledArms
from understudy.capture.measured import key_of
from understudy.capture.shadow_pairs import (
    SHADOW,
    ShadowStores,
    judge_shadow,
    policy_for_shadow,
    shadow_judgement_name,
)
from understudy.core.endpoints import Endpoint, FleetVariant
from understudy.core.errors import Conflict, ResourceNotFound, ValidationException
from understudy.core.judgements import (
    ROLLOUT,
    EndpointPolicy,
    Judgement,
    Pair,
    ShadowJudgement,
    VerdictInputs,
    pairs_of,
)
from understudy.core.policies import (
    LARGEST_NUMBER,
    Measure,
    MetricRule,
    Policy,
    PolicyError,
    default_policy,
    parse_policy,
)
from understudy.core.ports import Delete, Put, Query
from understudy.core.stages import RANDOMISED
from understudy.operations.sagemaker.wording import until_agreed
from understudy.operations.services import Services
from understudy.operations.understudy.calls import OwnCall, OwnRequest, endpoint_of

KEPT_ANSWERS = 100  # inputs of verdicts that were told without being news, per endpoint
ROUNDS = 2000  # of 1000 rows; a day of a busy endpoint is about a hundred


def get_verdict(services: Services, request: OwnRequest) -> dict[str, Any]:
    """Tell the verdict of the judgement that runs, or of the one that ended last.

    Raises:
        ValidationException: no two arms were ever judged, or the named ones.
    """
    endpoint = endpoint_of(services, request)
    shadow = shadow_named(endpoint, request.query)
    if shadow is not None:
        stored = services.records.get(EndpointPolicy, endpoint.name)
        policy = None if stored is None else parse_policy(stored.value.policy)
        return tell_shadow(services, endpoint, request.query, shadow, policy, explicit=False)
    found = [
        judged
        for stored in services.records.find(Judgement, Query())
        if stored.value.pair.endpoint == endpoint.name and (judged := readable(stored.value)) is not None
    ]
    chosen = _chosen(endpoint, found, request.query)
    told = _told(services, chosen)
    return {**told, "pairs": [_pair_told(one) for one in found]}


def post_verdict(services: Services, request: OwnRequest) -> dict[str, Any]:
    """Decide under another policy, from everything that was logged of the two arms.

    Such a verdict keeps its promise if the policy was fixed before the data were seen.
    """
    endpoint = endpoint_of(services, request)
    policy = _policy(request.body.get("policy"))
    names = {name: request.body.get(name) for name in ("control", "treatment")}
    for name, value in names.items():
        if value is not None and not isinstance(value, str):
            raise ValidationException(f"{name} must be the name of a variant.")
    given = {key: str(one) for key, one in names.items() if one is not None}
    shadow = shadow_named(endpoint, given)
    if shadow is not None:
        return tell_shadow(services, endpoint, given, shadow, policy, explicit=True)
    pair = _pair_meant(services, endpoint, given)
    judge = Judge(
        services.stages, services.evidence, services.assignments, services.outcomes, services.series
    )
    judged = judge.begin(pair, policy, services.clock.now_s())
    if judged is None:
        raise _nothing_judged(endpoint)
    for _ in range(ROUNDS):
        judged, more = judge.catch_up(judged, services.clock.now_s())
        if not more:
            break
    arms = LabelledArms(
        services.records, services.objects, services.outcomes, services.assignments, services.stages
    )
    label_evidence = arms.find(judged, services.clock.now_s())
    if label_evidence is not None:
        judged, _ = judge.catch_up(judged, services.clock.now_s(), label_evidence)
    return {**_told(services, judged), "ad_hoc": True}


def _told(services: Services, judged: Judged) -> dict[str, Any]:
    """Render a verdict, and keep what it was decided from."""
    verdict = judged.verdict()
    pair = judged.judgement.pair
    _keep(services, judged, verdict.replay, str(verdict.decision))
    return {
        **verdict.to_json(),
        "endpoint": pair.endpoint,
        "kind": pair.kind,
        "control": _arm(pair, "control"),
        "treatment": _arm(pair, "treatment"),
        "started_at": judged.judgement.started_at_s,
        "ended": judged.judgement.ended_at_s is not None,
        "requests": judged.judgement.requests,
        "hints": _hints(services, judged),
    }


def _hints(services: Services, judged: Judged) -> list[str]:
    """Say what keeps a policy's outcomes from counting, where it can be seen."""
    endpoint, requests = judged.judgement.pair.endpoint, judged.judgement.requests
    uncounted = [
        one.rule
        for one in judged.evidence.metrics
        if not any(tally.control_requests + tally.treatment_requests for tally in one.counts)
        and (one.bankroll is None or not one.bankroll.units)
    ]
    if judged.judgement.pair.kind == SHADOW:
        return [
            f"{rule.metric} is not counted of shadows, which answer nobody: leave it out of their policy"
            for rule in uncounted
            if rule.measure is not Measure.PAIRED and rule.metric != ERRORS
        ]
    waiting = [rule.metric for rule in uncounted if is_of_outcomes(rule)]
    measured = [rule for rule in uncounted if rule.cloudwatch is not None]
    if not requests or not (waiting or measured):
        return []
    hints = [_hint_of_data(services, judged.judgement.pair, rule) for rule in measured]
    reported = {one.name for one in services.outcomes.tallies(endpoint)}
    for metric in waiting:
        if judged.policy.label_window_s <= 0.0:
            hints.append(f"{metric} counts nothing: label_window_s must be above 0, to say when it is due")
        elif not services.assignments.read(endpoint, 0, 1):
            what = f"outcomes of {metric} come, but" if metric in reported else f"{metric} counts nothing:"
            hints.append(
                f"{what} no request is in the assignment log: give requests an InferenceId, or set the"
                " endpoint's tag understudy:assignments=all"
            )
        elif metric not in reported:
            hints.append(f"no outcome named {metric} was ever reported")
    return hints


def _hint_of_data(services: Services, pair: Pair, rule: MetricRule) -> str:
    """Say why a metric of PutMetricData counts nothing."""
    metric = rule.cloudwatch
    assert metric is not None  # the caller's choice
    if any(one.sticky for one in services.stages.find(pair.endpoint)[-1:]):
        return (
            f"{rule.metric} counts nothing: users keep their variant, and data of PutMetricData don't name"
            " the user; report outcomes of units"
        )
    there = {key for key, _ in services.series.keys(metric.namespace, metric.metric_name)}
    missing = [
        key for ref in (pair.control, pair.treatment) if (key := key_of(pair, ref, metric)) not in there
    ]
    if missing:
        dimensions = ", ".join(f"{name}={value}" for name, value in missing[0].dimensions)
        return f"no data of {metric.metric_name} in {metric.namespace} came with the dimensions {dimensions}"
    period = "minute" if metric.resolution_s == 60 else "second"
    return (
        f"{rule.metric} counts nothing yet: a {period} counts when it is over for {metric.delay_s:g} s, and"
        " not if the shares changed in it"
    )


def _arm(pair: Pair, which: str) -> dict[str, str]:
    ref = pair.control if which == "control" else pair.treatment
    return {"variant": ref.variant, "config": ref.config_name, "fleet": ref.fleet_id}


def _pair_told(judged: Judged) -> dict[str, Any]:
    one = judged.judgement
    return {
        "kind": one.pair.kind,
        "control": _arm(one.pair, "control"),
        "treatment": _arm(one.pair, "treatment"),
        "verdict": one.decision,
        "decided_at": one.decided_at,
        "ended": one.ended_at_s is not None,
    }


def _keep(services: Services, judged: Judged, replay_id: str, decision: str) -> None:
    """Keep the inputs of a verdict that is told; the oldest ones that were no news are forgotten."""
    records, now_s = services.records, services.clock.now_s()
    if records.get(VerdictInputs, replay_id) is not None:
        return
    name = judged.judgement.name
    changes: list[Put | Delete] = [
        Put(VerdictInputs(replay_id, name, judged.inputs(), decision, now_s, now_s), 0)
    ]
    endpoint = judged.judgement.pair.endpoint
    old = records.find(VerdictInputs, Query(status=endpoint, sort_by="created"))
    told = [one for one in old if not one.value.kept]
    changes += [
        Delete(VerdictInputs, one.value.name, one.version) for one in told[: max(0, len(told) - KEPT_ANSWERS)]
    ]
    try:
        records.commit(changes)
    except Conflict:  # somebody else was told the same verdict just now
        return


# --- shadows -----------------------------------------------------------------------------------------


def shadow_named(endpoint: Endpoint, names: Mapping[str, str]) -> FleetVariant | None:
    """Return the shadow that is asked about: named as treatment, or there is nothing else to judge."""
    fleet = endpoint.fleet
    if fleet is None or endpoint.update is not None:
        return None
    shadows = {one.name: one for one in fleet.variants if one.shadow}
    if "treatment" in names:
        return shadows.get(names["treatment"])
    alone = len(fleet.variants) - len(shadows) == 1
    return next(iter(shadows.values())) if alone and len(shadows) == 1 else None


def tell_shadow(
    services: Services,
    endpoint: Endpoint,
    names: Mapping[str, str],
    shadow: FleetVariant,
    policy: Policy | None,
    *,
    explicit: bool,
) -> dict[str, Any]:
    """Judge a shadow by the pairs that were captured and their labels.

    Args:
        policy: One without a metric of pairs is refused when it was asked for, else not used.

    Raises:
        ValidationException: the control is no production variant, or answers are not captured.
    """
    fleet = endpoint.fleet
    assert fleet is not None  # shadow_named
    production = [one for one in fleet.variants if not one.shadow]
    control = next((one for one in production if one.name == names.get("control", production[0].name)), None)
    if control is None:
        raise ValidationException(
            f'The control of shadow "{shadow.name}" must be a production variant of endpoint '
            f'"{endpoint.name}", not "{names["control"]}".'
        )
    if fleet.capture is None or not fleet.capture.outputs:
        raise ValidationException(
            f'Answers of endpoint "{endpoint.name}" are not captured: a verdict about a shadow needs a '
            "DataCaptureConfig with Output among its CaptureOptions."
        )
    paired = policy is not None and policy_for_shadow(policy) is policy
    if explicit and not paired:
        raise ValidationException(
            "A verdict about a shadow needs a policy with a metric of measure paired, e.g. shadow_agreement."
        )
    name = shadow_judgement_name(endpoint.name, control.name, shadow.name)
    before = services.records.get(ShadowJudgement, name)
    stores = ShadowStores(
        services.objects, services.outcomes, services.stages, services.evidence, services.series
    )
    now_s = services.clock.now_s()
    judged, counts = judge_shadow(
        stores,
        endpoint.name,
        fleet,
        control,
        shadow,
        policy_for_shadow(policy),
        now_s,
        None if before is None else before.value,
    )
    agreement = counts.agreeing / counts.pairs if counts.pairs else None
    return {
        **_told(services, judged),
        "pairs": [],
        "shadow": {**asdict(counts), "agreement": agreement},
    }


def _chosen(endpoint: Endpoint, found: Sequence[Judged], query: Mapping[str, str]) -> Judged:
    """Choose the judgement that is meant: what runs before what ended, a rollout first, then the newest."""
    fitting = [one for one in found if _fits(one.judgement.pair, query)]
    if not fitting:
        if found:
            there_are = ", ".join(
                f"{one.judgement.pair.control} and {one.judgement.pair.treatment}" for one in found
            )
            raise ValidationException(
                f'Endpoint "{endpoint.name}" has no verdict about these; there are: {there_are}.'
            )
        raise _nothing_judged(endpoint)
    return max(
        fitting,
        key=lambda one: (
            one.judgement.ended_at_s is None,
            one.judgement.pair.kind == ROLLOUT,
            one.judgement.started_at_s,
            one.judgement.name,
        ),
    )


def _fits(pair: Pair, query: Mapping[str, str]) -> bool:
    """Tell whether a pair is the one named: by variants, or by their configurations."""
    for which, ref in (("control", pair.control), ("treatment", pair.treatment)):
        name = query.get(which)
        if name is not None and name not in (ref.variant, ref.config_name):
            return False
    return True


def _nothing_judged(endpoint: Endpoint) -> ValidationException:
    return ValidationException(
        f'Endpoint "{endpoint.name}" has nothing to judge: it needs two production variants, or an update '
        "that shifts traffic step by step."
    )


def _pair_meant(services: Services, endpoint: Endpoint, names: Mapping[str, str]) -> Pair:
    """Find the pair to judge ad hoc; two variants in any order, of the newest stage that has such a pair."""
    for stage in reversed(services.stages.find(endpoint.name)):
        pairs = pairs_of(stage)
        for pair in pairs:
            if _fits(pair, names):
                return pair
        if names and pairs:
            swapped = {"control": names.get("treatment", ""), "treatment": names.get("control", "")}
            for pair in pairs:
                if all(names.get(which) for which in ("control", "treatment")) and _fits(pair, swapped):
                    return Pair(pair.endpoint, pair.kind, pair.treatment, pair.control)
            break
    if names:
        raise ValidationException(
            f'Endpoint "{endpoint.name}" has no two arms that are {" and ".join(names.values())}.'
        )
    raise _nothing_judged(endpoint)


# --- replay ------------------------------------------------------------------------------------------


def replay(services: Services, request: OwnRequest) -> dict[str, Any]:
    """Decide a verdict again from what was stored, and tell whether it is the same to the bit.

    Raises:
        ResourceNotFound: nothing is stored under this id.
    """
    stored = services.records.get(VerdictInputs, request.labels["replay"])
    if stored is None:
        raise ResourceNotFound(f"No verdict is kept under {request.labels['replay'][:100]!r}.")
    verdict = replay_verdict(stored.value.inputs)
    return {
        **verdict.to_json(),
        "identical": verdict.replay == stored.value.name and str(verdict.decision) == stored.value.decision,
        "judgement": stored.value.judgement,
        "inputs": stored.value.inputs,
    }


# --- policies ----------------------------------------------------------------------------------------


def get_policy(services: Services, request: OwnRequest) -> dict[str, Any]:
    """Tell the endpoint's policy, or the defaults where it has none."""
    endpoint = endpoint_of(services, request)
    stored = services.records.get(EndpointPolicy, endpoint.name)
    if stored is not None:
        return {"endpoint": endpoint.name, "default": False, "policy": stored.value.policy}
    return {
        "endpoint": endpoint.name,
        "default": True,
        "policies": {kind: default_policy(kind).to_json() for kind in ("deploy", "experiment")},
    }


def put_policy(services: Services, request: OwnRequest) -> dict[str, Any]:
    """Set what must be proven from now on; another policy begins its evidence anew."""
    endpoint = endpoint_of(services, request)
    policy = _policy(request.body)

    def attempt() -> dict[str, Any]:
        before = services.records.get(EndpointPolicy, endpoint.name)
        now_s = services.clock.now_s()
        created_at_s = now_s if before is None else before.value.created_at_s
        record = EndpointPolicy(endpoint.name, policy.to_json(), created_at_s, now_s)
        services.records.commit([Put(record, 0 if before is None else before.version)])
        return {"endpoint": endpoint.name, "default": False, "policy": record.policy}

    told = until_agreed(attempt)
    services.nudge()
    return told


def delete_policy(services: Services, request: OwnRequest) -> dict[str, Any]:
    """Return to the defaults."""
    endpoint = endpoint_of(services, request)

    def attempt() -> dict[str, Any]:
        before = services.records.get(EndpointPolicy, endpoint.name)
        if before is not None:
            services.records.commit([Delete(EndpointPolicy, endpoint.name, before.version)])
        return {}

    return until_agreed(attempt)


def _policy(given: Any) -> Policy:
    """Check a policy.

    Raises:
        ValidationException: it names the key.
    """
    try:
        return parse_policy(given)
    except PolicyError as error:
        raise ValidationException(f"The policy can't be used: {error}.") from None


# --- plans -------------------------------------------------------------------------------------------


def post_plan(services: Services, request: OwnRequest) -> dict[str, Any]:
    """Say how much traffic, or time, each proof takes; by default with the endpoint's rates and traffic."""
    endpoint = endpoint_of(services, request)
    kind = request.body.get("kind", "deploy")
    if "policy" in request.body:
        policy = _policy(request.body["policy"])
    elif kind in ("deploy", "experiment"):
        stored = services.records.get(EndpointPolicy, endpoint.name)
        policy = parse_policy(stored.value.policy) if stored is not None else default_policy(kind)
    else:
        raise ValidationException("kind must be deploy or experiment.")
    requests, errors, minutes = _traffic(services, endpoint.name)
    rates = request.body.get("rates", {})
    if not isinstance(rates, Mapping) or not all(_is_number(one) for one in rates.values()):
        raise ValidationException("rates must be an object of numbers by metric.")
    per_minute = request.body.get("requests_per_minute")
    share = request.body.get("share", 0.1 if policy.kind == "deploy" else 0.5)
    for name, value in (("requests_per_minute", per_minute), ("share", share)):
        if value is not None and not _is_number(value):
            raise ValidationException(f"{name} must be a number.")
    if per_minute is None and minutes:
        per_minute = requests / minutes or None
    seen = {} if not requests else {"error_rate": errors / requests}
    try:
        planned = plan(policy, {**seen, **rates}, per_minute, share)
    except ValueError as error:
        raise ValidationException(f"{error}.") from None
    return {**planned.to_json(), "rates": {**seen, **rates}}


def _is_number(value: Any) -> bool:
    # Whole numbers of JSON may be too large for a float.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST_NUMBER


def _traffic(services: Services, endpoint: str) -> tuple[int, int, float]:
    """Return requests, errors and minutes of the endpoint's newest stage."""
    totals = [one for one in services.evidence.totals(endpoint) if one.source in RANDOMISED]
    if not totals:
        return 0, 0, 0.0
    newest = max(one.stage for one in totals)
    stage = next((one for one in services.stages.find(endpoint) if one.number == newest), None)
    ours = [one for one in totals if one.stage == newest]
    began_s = max(one.at_s for one in ours) if stage is None else stage.started_at_s
    minutes = max(0.0, max(one.at_s for one in ours) + 1 - began_s) / 60.0
    return sum(one.requests for one in ours), sum(one.failures + one.abandoned for one in ours), minutes


OWN_CALLS = (
    OwnCall("GET", "/endpoints/{endpoint}/verdict", get_verdict, query=frozenset({"control", "treatment"})),
    OwnCall(
        "POST",
        "/endpoints/{endpoint}/verdict",
        post_verdict,
        body=frozenset({"control", "treatment", "policy"}),
    ),
    OwnCall("GET", "/endpoints/{endpoint}/policy", get_policy),
    OwnCall("PUT", "/endpoints/{endpoint}/policy", put_policy, body=None),
    OwnCall("DELETE", "/endpoints/{endpoint}/policy", delete_policy),
    OwnCall(
        "POST",
        "/endpoints/{endpoint}/plan",
        post_plan,
        body=frozenset({"kind", "policy", "rates", "requests_per_minute", "share"}),
    ),
    OwnCall("GET", "/verdicts/{replay}", replay),
)
