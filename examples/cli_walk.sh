#!/bin/sh
# The A/B walk with the AWS CLI:
#
#   eval "$(understudy env)"
#   sh examples/cli_walk.sh model1.tar.gz model2.tar.gz rows.csv [IMAGE]
#
# Two models behind one endpoint; two requests of each kind; 0/1; everything deleted.
set -eu
model1=$1 model2=$2 rows=$3 image=${4:-sklearn}
name=example-cli bucket=understudy-example-cli
role=arn:aws:iam::123456789012:role/understudy
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

aws s3 mb "s3://$bucket" >/dev/null
number=0
for model in "$model1" "$model2"; do
    number=$((number + 1))
    aws s3 cp --quiet "$model" "s3://$bucket/$number/model.tar.gz"
    aws sagemaker create-model --model-name "$name-$number" --execution-role-arn "$role" \
        --primary-container "Image=$image,ModelDataUrl=s3://$bucket/$number/model.tar.gz" >/dev/null
done

variant() { echo "VariantName=Variant$1,ModelName=$name-$1,InstanceType=ml.m5.large,InitialInstanceCount=1,InitialVariantWeight=0.5"; }
aws sagemaker create-endpoint-config --endpoint-config-name $name \
    --production-variants "$(variant 1)" "$(variant 2)" >/dev/null
aws sagemaker create-endpoint --endpoint-name $name --endpoint-config-name $name >/dev/null

wait_in_service() { # `aws sagemaker wait` looks once in 30 s
    until status=$(aws sagemaker describe-endpoint --endpoint-name $name --query EndpointStatus --output text) &&
        [ "$status" != Creating ] && [ "$status" != Updating ]; do sleep 0.5; done
    [ "$status" = InService ] || { echo "$name is $status" >&2; exit 1; }
}
ask() { # ask ROW [--target-variant NAME]
    sed -n "$1p" "$rows" | tr -d '\n' >"$scratch/body"
    shift
    aws sagemaker-runtime invoke-endpoint --endpoint-name $name --content-type text/csv \
        --body "fileb://$scratch/body" "$@" --query InvokedProductionVariant --output text "$scratch/answer"
    cat "$scratch/answer" && echo
}

wait_in_service
for row in 1 2; do ask $row; done
ask 1 --target-variant Variant1
ask 1 --target-variant Variant2
aws sagemaker update-endpoint-weights-and-capacities --endpoint-name $name --desired-weights-and-capacities \
    VariantName=Variant1,DesiredWeight=0 VariantName=Variant2,DesiredWeight=1 >/dev/null
wait_in_service
ask 2

aws sagemaker delete-endpoint --endpoint-name $name
aws sagemaker delete-endpoint-config --endpoint-config-name $name
for number in 1 2; do aws sagemaker delete-model --model-name "$name-$number"; done
