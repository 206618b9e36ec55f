"""What `uadray serve` is configured with."""

from pydantic import Field, model_validator

from uadray.config import Config
from uadray.serving.hosts import is_loopback

MAX_TILES = 4096
"""No configuration admits more tiles in a request: what is more is a batch, and belongs to `uadray score`."""


class StageConfig(Config):
    """Copies of one stage, and what each asks of the cluster.

    Attributes:
        replicas: how many there are, or the least of them where `max_replicas` is given.
        max_replicas: scale up to this many with the load; None keeps `replicas`.
        cpus: of each replica; also its torch threads, rounded down, at least one.
        gpus: of each replica.
    """

    replicas: int = Field(default=1, ge=1)
    max_replicas: int | None = Field(default=None, ge=1)
    cpus: float = Field(default=1, ge=0)
    gpus: float = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> "StageConfig":
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas {self.max_replicas} is less than replicas {self.replicas}")
        return self


class ServeConfig(Config):
    """One endpoint.

    Attributes:
        bundle: folder or s3:// URI; every replica reads it.
        host: address to listen on. Anything but loopback needs a token in the environment, `UADRAY_TOKEN`.
        port: to listen on.
        one_replica: map, reconstruct and score in one deployment (`detector`), which saves the two hops between them;
            else each is a deployment that scales by itself.
        ingress: reads requests and decodes images.
        encoder: the stage `map`, deployed as `MapStage`.
        generator: the stage `reconstruct`, deployed as `ReconstructStage`.
        scorer: the stage `score`, deployed as `ScoreStage`.
        detector: the three of them where `one_replica` is set, deployed as `AllStages`.
        batch_tiles: in one forward pass of a stage; None takes 64 on a CPU, 128 on a GPU, and fewer beyond 256 px.
        max_tiles_per_request: more are refused (413).
        max_body_bytes: a larger body is refused (413) before it is read whole. An ingress replica holds at most
            `max_ongoing_requests + max_queued_requests` bodies of this size.
        max_image_px: an image whose header claims a longer side is not decoded.
        max_pixels_per_request: images whose headers claim more pixels together are refused (413) before one is decoded.
            An ingress replica decodes at most `max_ongoing_requests` times as many at a time, at three bytes each.
        max_ongoing_requests: that an ingress replica works on at a time.
        max_queued_requests: that wait in an ingress replica; more are refused (503).
        request_timeout_s: from a request's headers to its answer; then 408.
    """

    bundle: str
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    one_replica: bool = False
    ingress: StageConfig = StageConfig()
    encoder: StageConfig = StageConfig()
    generator: StageConfig = StageConfig()
    scorer: StageConfig = StageConfig()
    detector: StageConfig = StageConfig()
    batch_tiles: int | None = Field(default=None, ge=1, le=MAX_TILES)
    max_tiles_per_request: int = Field(default=256, ge=1, le=MAX_TILES)
    max_body_bytes: int = Field(default=32 * 2**20, ge=1024)
    max_image_px: int = Field(default=4096, ge=8, le=8192)
    max_pixels_per_request: int = Field(default=64 * 2**20, ge=64, le=2**30)
    max_ongoing_requests: int = Field(default=8, ge=1)
    max_queued_requests: int = Field(default=16, ge=0)
    request_timeout_s: float = Field(default=60, gt=0)

    @property
    def stages(self) -> dict[str, StageConfig]:
        """The deployments that this configuration makes, beside the ingress."""
        if self.one_replica:
            return {"detector": self.detector}
        return {"encoder": self.encoder, "generator": self.generator, "scorer": self.scorer}

    @property
    def is_loopback(self) -> bool:
        """True where only this machine can reach `host`."""
        return is_loopback(self.host)
