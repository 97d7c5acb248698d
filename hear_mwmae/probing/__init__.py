"""Quick measurements of models: linear probes on HEAR task folders, baselines, comparisons."""

from typing import Literal

#: Classifiers of tasks with one label per clip. Here, because commands name them without
#: scikit-learn.
Classifier = Literal["logistic", "ridge"]
