"""Deploy and invoke with the SageMaker SDK v3: runs in an environment with sagemaker-core.

Usage: sdk_v3_walk.py MODEL.tar.gz MODEL2.tar.gz ROWS.csv OUT.json
"""

import json
import sys
from datetime import datetime
from pathlib import Path

import boto3
from sagemaker.core import image_uris
from sagemaker.core.helper.session_helper import Session, get_execution_role
from sagemaker.core.resources import Endpoint, EndpointConfig, Model
from sagemaker.core.shapes import ContainerDefinition, ProductionVariant

path, path2, rows_path, out_path = sys.argv[1:]
session = Session()
role = get_execution_role()
bucket = session.default_bucket()
region = session.boto_region_name
stamp = f"{datetime.now():%Y-%m-%d-%H-%M-%S-%f}"
name = f"DEMO-core-{stamp}"
seen = {"role": role, "bucket": bucket, "endpoint": name}

models, variants = [], []
for number, (artifact, version) in enumerate(((path, "0.90-1"), (path2, "0.90-2")), start=1):
    key = f"{name}/model{number}.tar.gz"
    boto3.client("s3").upload_file(artifact, bucket, key)
    container = ContainerDefinition(
        image=image_uris.retrieve("xgboost", region, version), model_data_url=f"s3://{bucket}/{key}"
    )
    model = Model.create(model_name=f"{name}-{number}", primary_container=container, execution_role_arn=role)
    models.append(model)
    variants.append(
        ProductionVariant(
            variant_name=f"Variant{number}",
            model_name=model.model_name,
            instance_type="ml.m5.xlarge",
            initial_instance_count=1,
            initial_variant_weight=0.5,
        )
    )
config = EndpointConfig.create(endpoint_config_name=name, production_variants=variants)
endpoint = Endpoint.create(endpoint_name=name, endpoint_config_name=name)
endpoint.wait_for_status("InService", poll=1, timeout=120)

rows = Path(rows_path).read_text().splitlines()[-20:]
for variant in ("Variant1", "Variant2"):
    seen[f"to {variant}"] = []
    for row in rows:
        answer = endpoint.invoke(body=row, content_type="text/csv", target_variant=variant)
        seen[f"to {variant}"].append([answer.invoked_production_variant, answer.body.read().decode()])
seen["listed"] = [item.endpoint_name for item in Endpoint.get_all(name_contains=stamp)]
seen["weights"] = [item.current_weight for item in Endpoint.get(endpoint_name=name).production_variants]
endpoint.delete()
endpoint.wait_for_delete(poll=1, timeout=60)
config.delete()
for model in models:
    model.delete()
Path(out_path).write_text(json.dumps(seen))
