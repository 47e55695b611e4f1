"""``headway demo``: the same bursty workload three times, under a static, a heuristic and the learned policies."""
