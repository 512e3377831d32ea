"""Reads a training set from S3, epoch by epoch. Plain boto3: nothing in here knows Dayfly.

    dayfly run --scope s3-train-read --param dataset=corpus-7 -- python train.py --dataset corpus-7
"""

import argparse
import time

import boto3

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--bucket", default="datasets")
parser.add_argument("--dataset", default="corpus-7")
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--pause", type=float, default=0.2, help="seconds between two epochs")
options = parser.parse_args()

s3 = boto3.client("s3")
for epoch in range(options.epochs):
    if epoch:
        time.sleep(options.pause)
    answer = s3.get_object(Bucket=options.bucket, Key=f"{options.dataset}/part-0")
    print(f"epoch {epoch}: read {len(answer['Body'].read())} bytes", flush=True)
