"""XGBoost's own predictions: runs in an environment with xgboost 0.90, prints one JSON list per model.

Usage: oracle.py ROWS.csv MODEL.tar.gz...
"""

import json
import pickle
import sys
import tarfile
from pathlib import Path

import numpy
import xgboost

rows = [[float(cell) for cell in line.split(",")] for line in Path(sys.argv[1]).read_text().splitlines()]
predictions = []
for path in sys.argv[2:]:
    with tarfile.open(path) as archive:
        booster = pickle.load(archive.extractfile("xgboost-model"))
    matrix = xgboost.DMatrix(numpy.array(rows, dtype=numpy.float32))
    predictions.append([repr(float(value)) for value in booster.predict(matrix, validate_features=False)])
print(json.dumps(predictions))
