"""A Ray cluster that cannot be joined, or cannot run a trial, is told at once: Ray would wait, in part for ever."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.errors import UserError
from jobs.spec import Resources

SECONDS = 10.0  # for a cluster's first answer
GROUP = "ray.io/node-group"  # label of nodes that KubeRay or Ray's cluster launcher started, and will start more of
WHO = "/ray.rpc.NodeInfoGcsService/GetClusterId"


def answers(address: str) -> None:
    """Ask a head who it is; other addresses than HOST:PORT are Ray's to explain.

    Raises:
        UserError: nobody answers, or our token is refused.
    """
    import grpc
    from ray._private.grpc_utils import init_grpc_channel  # with the token, and with TLS where that is on

    if not re.fullmatch(r"[^/:]+:\d+", address):
        return
    try:
        with init_grpc_channel(address) as channel:
            channel.unary_unary(WHO)(b"", timeout=SECONDS, wait_for_ready=False)
    except grpc.RpcError as error:
        if error.code() in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}:
            raise UserError(
                f"the Ray cluster at RAY_ADDRESS = '{address}' refuses our token: set RAY_AUTH_MODE=token, and "
                "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the one that its head was started with"
            ) from None
        raise UserError(
            f"no Ray cluster answers at RAY_ADDRESS = '{address}': {error.details()}; give HOST:PORT of its head "
            "(port 6379 unless it was started with another), or unset it to run here"
        ) from None


def suffices(resources: Resources, nodes: Sequence[Mapping[str, Any]]) -> str | None:
    """Whether a cluster's living nodes, as `ray.nodes()` lists them, can run a trial.

    Returns:
        None if one can; what there is to wait for if more may come by themselves.

    Raises:
        UserError: none can, and none will.
    """
    needed = {"CPU": resources.cpu, "GPU": resources.gpu}
    alive = [node for node in nodes if node["Alive"]]
    if any(all(node["Resources"].get(name, 0) >= least for name, least in needed.items()) for node in alive):
        return None
    most = {name: max((node["Resources"].get(name, 0) for node in alive), default=0) for name in needed}
    lack = (
        f"resources.cpu = {resources.cpu:g}, resources.gpu = {resources.gpu:g}: no node of the Ray cluster has as much "
        f"for a trial, at most {most['CPU']:g} CPUs and {most['GPU']:g} GPUs"
    )
    if any(GROUP in node.get("Labels", {}) for node in alive):
        return f"{lack}; waiting for the autoscaler to add one: it needs a group of nodes that have"
    raise UserError(f"{lack}; ask for less, or start a node that has, with `ray start --address`, and submit again")
