"""Clarifai's side of the vision API on this machine: PostModelOutputs over gRPC."""

import time
from concurrent.futures import ThreadPoolExecutor

import grpc
from clarifai_grpc.grpc.api import resources_pb2, service_pb2, service_pb2_grpc
from clarifai_grpc.grpc.api.status import status_code_pb2, status_pb2

from data.errors import InputError
from runners.vision_api.local.formats import Asked
from runners.vision_api.local.labeller import Labeller

CODES = status_code_pb2.StatusCode
OF_FAULT = {
    "busy": CODES.CONN_THROTTLED,
    "broken": CODES.INTERNAL_SERVER_ISSUE,
    "expired": CODES.CONN_KEY_INVALID,
}


class _Servicer(service_pb2_grpc.V2Servicer):
    def __init__(self, labeller: Labeller) -> None:
        self.labeller = labeller

    def PostModelOutputs(self, request, context):  # noqa: N802, Clarifai's name
        """Answer a request for the concepts of one image."""
        fault = self.labeller.called("clarifai")
        if fault == "slow":
            time.sleep(self.labeller.slow)
        if fault in ("slow", "cut"):
            context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        if fault == "malformed":  # a message that lacks what it must hold
            return service_pb2.MultiOutputResponse(status=status_pb2.Status(code=CODES.SUCCESS))
        token = dict(context.invocation_metadata()).get("authorization", "")
        if fault or not token.startswith("Key "):
            code = OF_FAULT[fault or "expired"]
            return service_pb2.MultiOutputResponse(
                status=status_pb2.Status(code=code, description=CODES.Name(code))
            )
        config = request.model.model_version.output_info.output_config
        labels = self.labeller.label(Asked(request.inputs[0].data.image.base64, config.max_concepts or 20))
        concepts = [resources_pb2.Concept(name=name, value=score) for name, score in labels]
        done = status_pb2.Status(code=CODES.SUCCESS)
        model = resources_pb2.Model(model_version=resources_pb2.ModelVersion(id="local"))
        output = resources_pb2.Output(status=done, data=resources_pb2.Data(concepts=concepts), model=model)
        return service_pb2.MultiOutputResponse(status=done, outputs=[output])


def serve_clarifai(labeller: Labeller, port: int = 0) -> tuple[grpc.Server, int]:
    """Start the service, and return it and its port. Port 0 takes any free port."""
    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    service_pb2_grpc.add_V2Servicer_to_server(_Servicer(labeller), server)
    try:
        port = server.add_insecure_port(f"127.0.0.1:{port}")
    except RuntimeError as error:
        raise InputError(f"port: cannot listen on {port} for Clarifai ({error})") from error
    server.start()
    return server, port
