"""Quick measurements of models: linear probes on HEAR task folders, baselines, comparisons."""
