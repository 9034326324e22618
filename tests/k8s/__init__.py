"""`make k8s-test`: the chart on a real Kubernetes, and its plan on many pretended nodes."""
