"""A guarded rollout, as AWS's notebooks walk it: python examples/rollout_walk.py canary

A bad version takes its first share, its errors trip an alarm, everything goes back; then a good one goes all
the way by the same DeploymentConfig.  The first argument: canary, linear, rolling or all-at-once.
"""

import contextlib
import io
import sys
import tarfile
import time

import boto3

THIRD, ONE = {"Type": "CAPACITY_PERCENT", "Value": 33}, {"Type": "INSTANCE_COUNT", "Value": 1}
WAIT_S = int(sys.argv[2]) if len(sys.argv) > 2 else 60
KINDS = {
    "canary": {"Type": "CANARY", "CanarySize": ONE, "WaitIntervalInSeconds": WAIT_S},
    "linear": {"Type": "LINEAR", "LinearStepSize": THIRD, "WaitIntervalInSeconds": WAIT_S},
    "all-at-once": {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": WAIT_S},
}
CODE = "def model_fn(d):\n    return None\ndef transform_fn(m, body, content_type, accept):\n    {}\n"
ROLE = "arn:aws:iam::123456789012:role/understudy"
ANSWER = 'return body, "text/plain"'
VERSIONS = {"good": ANSWER, "bad": 'raise ValueError("bad")', "better": ANSWER}

name = f"rollout-{sys.argv[1]}-{int(time.time())}"
s3, sm, runtime, cloudwatch = map(boto3.client, ("s3", "sagemaker", "sagemaker-runtime", "cloudwatch"))
s3.create_bucket(Bucket=name)
for version, line in VERSIONS.items():
    code, archive = CODE.format(line).encode(), io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        info = tarfile.TarInfo("code/inference.py")
        info.size = len(code)
        tar.addfile(info, io.BytesIO(code))
    s3.put_object(Bucket=name, Key=f"{version}.tar.gz", Body=archive.getvalue())
    model = {"Image": "python:3", "ModelDataUrl": f"s3://{name}/{version}.tar.gz"}
    sm.create_model(ModelName=f"{name}-{version}", ExecutionRoleArn=ROLE, PrimaryContainer=model)
    variant = {"VariantName": "AllTraffic", "InstanceType": "ml.m5.large", "InitialInstanceCount": 3}
    variant["ModelName"] = f"{name}-{version}"
    sm.create_endpoint_config(EndpointConfigName=f"{name}-{version}", ProductionVariants=[variant])
dimensions = {"EndpointName": name, "VariantName": "AllTraffic", "EndpointConfigName": f"{name}-bad"}
cloudwatch.put_metric_alarm(
    AlarmName=name, Namespace="AWS/SageMaker", MetricName="Invocation5XXErrors", Statistic="Average",
    Dimensions=[{"Name": key, "Value": value} for key, value in dimensions.items()], Period=10,
    EvaluationPeriods=1, Threshold=0.1, ComparisonOperator="GreaterThanThreshold",
    TreatMissingData="notBreaching",
)  # fmt: skip
policy = {"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": KINDS.get(sys.argv[1])}}
if sys.argv[1] == "rolling":
    policy = {"RollingUpdatePolicy": {"MaximumBatchSize": THIRD, "WaitIntervalInSeconds": WAIT_S}}
guarded = {"DeploymentConfig": {**policy, "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": name}]}}}
sm.create_endpoint(EndpointName=name, EndpointConfigName=f"{name}-good")
for version, how in (("good", None), ("bad", guarded), ("better", {"RetainDeploymentConfig": True})):
    while cloudwatch.describe_alarms(AlarmNames=[name])["MetricAlarms"][0]["StateValue"] == "ALARM":
        time.sleep(0.5)  # the next update is refused until the alarm has calmed down
    if how:
        sm.update_endpoint(EndpointName=name, EndpointConfigName=f"{name}-{version}", **how)
    while (told := sm.describe_endpoint(EndpointName=name))["EndpointStatus"] != "InService":
        with contextlib.suppress(runtime.exceptions.ModelError):  # of the bad version
            if how:
                runtime.invoke_endpoint(EndpointName=name, Body=b"x")
        time.sleep(0.02)
    outcome = " (rolled back)" if "FailureReason" in told else ""
    print(f"{version}: {told['EndpointConfigName'].rpartition('-')[2]} serves{outcome}")
sm.delete_endpoint(EndpointName=name)
