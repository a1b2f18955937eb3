"""What KubeRay takes as RayCluster and RayJob, for strict checks without a cluster.

The fields are those of the ray.io/v1 API reference in KubeRay's documentation, 1.6 and later, which brought
`authOptions.secretName`, without those that nothing here uses. What is Kubernetes' own in them is checked by the
schemas of Kubernetes. The CRDs themselves are in no package of a registry, so no copy of them is pinned here.
"""

from typing import Any

KUBERNETES = "kubernetes#/$defs/"


def _object(required: str = "", **fields: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": fields, "required": required.split()}


def _core(kind: str) -> dict[str, Any]:
    return {"$ref": f"{KUBERNETES}io.k8s.api.core.v1.{kind}"}


TEXT, WHOLE, TRUTH = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": TEXT}

AUTH = _object(mode={"enum": ["disabled", "token"]}, secretName=TEXT, enableK8sTokenAuth=TRUTH)
AUTOSCALER = _object(
    version={"enum": ["v1", "v2"]},
    upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
    idleTimeoutSeconds=WHOLE,
    resources=_core("ResourceRequirements"),
    securityContext=_core("SecurityContext"),
    env={"type": "array", "items": _core("EnvVar")},
)
HEAD = _object(
    "template rayStartParams",
    template=_core("PodTemplateSpec"),
    rayStartParams=TEXTS,
    serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
)
WORKERS = _object(
    "groupName minReplicas maxReplicas rayStartParams template",
    groupName=TEXT,
    replicas=WHOLE,
    minReplicas=WHOLE,
    maxReplicas=WHOLE,
    idleTimeoutSeconds=WHOLE,
    rayStartParams=TEXTS,
    template=_core("PodTemplateSpec"),
)
CLUSTER = _object(
    "headGroupSpec",
    rayVersion=TEXT,
    suspend=TRUTH,
    authOptions=AUTH,
    enableInTreeAutoscaling=TRUTH,
    autoscalerOptions=AUTOSCALER,
    headGroupSpec=HEAD,
    workerGroupSpecs={"type": "array", "items": WORKERS},
)
JOB = _object(
    entrypoint=TEXT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    backoffLimit=WHOLE,
    activeDeadlineSeconds=WHOLE,
    shutdownAfterJobFinishes=TRUTH,
    ttlSecondsAfterFinished=WHOLE,
    suspend=TRUTH,
    jobId=TEXT,
    metadata=TEXTS,
    runtimeEnvYAML=TEXT,
    clusterSelector=TEXTS,
    rayClusterSpec=CLUSTER,
    submitterPodTemplate=_core("PodTemplateSpec"),
)
META = {"$ref": f"{KUBERNETES}io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}


def resource(kind: str) -> dict[str, Any]:
    """Schema of a resource of the group ray.io/v1."""
    spec = {"RayCluster": CLUSTER, "RayJob": JOB}[kind]
    own = {"apiVersion": {"const": "ray.io/v1"}, "kind": {"const": kind}}
    return _object("apiVersion kind metadata spec", **own, metadata=META, spec=spec)
